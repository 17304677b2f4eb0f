"""Words for each style; the first is the style's name."""
import torch
from tokenizers import Tokenizer
from transformers import T5Config, T5EncoderModel

WORDS = {
    "plain": ("plain", "unchanged", "original", "natural", "a plain photo", "camera picture", "photo", "unfiltered", "as it is"),
    "sepia": ("sepia", "old photograph", "sepia photo", "vintage sepia", "sepia tone", "sepia photograph", "brown toned", "antique photo"),
    "pencil sketch": ("pencil sketch", "pencil drawing", "graphite sketch", "pencil", "sketch", "drawn in pencil", "pencil drawn", "graphite", "charcoal sketch"),
    "ink edges": ("ink edges", "ink drawing", "ink outline", "black ink", "pen and ink", "line art", "line drawing", "line drawing in ink", "ink sketch", "outlines"),
    "posterised cartoon": ("posterised cartoon", "cartoon", "comic", "posterized cartoon", "comic book", "anime", "comic book style", "toon", "posterised"),
    "oil painting": ("oil painting", "oil", "painting", "oil on canvas", "an oil painting", "oil paint", "painted in oil", "impressionist painting"),
    "thermal camera": ("thermal camera", "thermal", "infrared", "heat map", "thermal imaging", "infrared camera", "heat camera", "thermal vision"),
    "night vision": ("night vision", "night", "green night vision", "night vision goggles", "night vision camera", "night scope", "green phosphor"),
    "blueprint": ("blueprint", "blue print", "technical drawing", "blueprint drawing", "architect blueprint", "construction plan", "white lines on blue"),
    "pixel art": ("pixel art", "pixels", "pixelated", "8 bit", "pixel", "mosaic", "8-bit", "pixel graphics", "retro game"),
}
THINGS = ("a dog", "a cat", "a person", "a street", "a bottle", "a car", "my room", "a face", "people walking", "a forest", "a city", "flowers", "a table", "hands", "the sea")
FORMS = ("{s}", "{s}", "{s}", "a {s}", "{s} style", "in the style of {s}", "{s} of {t}", "{t}, {s}", "{t} as {s}", "make it {s}", "an old {s}", "{s} of my {n}", "{t} in {s}", "{s}, detailed",
         "the {n} seen with {s}", "{s}, {n}", "my {n} as a {s}", "{s} art of {t}", "like {s}", "a beautiful {s} of {t}", "{t} and {n}, {s}", "show {t} through {s}")
NOUNS = ("cat", "dog", "castle", "portrait", "house", "garden", "guitar", "mountain", "friend", "desk", "hand", "bicycle", "train", "river", "kitchen")
CAPITAL = 0.1


def prompt(style, chance):
    text = chance.choice(FORMS).format(s=chance.choice(WORDS[style]) if chance.random() < 0.6 else style, t=chance.choice(THINGS), n=chance.choice(NOUNS))
    return text.capitalize() if chance.random() < CAPITAL else text


class Words:
    """A small T5 encoder: prompts to text states `[n, LENGTH, 128]`, zero after the end."""

    LENGTH = 24

    def __init__(self, tokenizer):
        self.tokenizer = Tokenizer.from_file(f"{tokenizer}/tokenizer.json")
        self.encoder = T5EncoderModel(T5Config(vocab_size=2476, d_model=128, d_kv=32, d_ff=256, num_layers=2, num_heads=4, feed_forward_proj="gated-gelu", dropout_rate=0.0,
                                               initializer_factor=1.0, pad_token_id=0, eos_token_id=1, is_encoder_decoder=False, use_cache=False))

    def __call__(self, prompts):
        rows = [self.tokenizer.encode(text).ids[:self.LENGTH] for text in prompts]
        ids, mask = torch.zeros(len(rows), self.LENGTH, dtype=torch.long), torch.zeros(len(rows), self.LENGTH)
        for i, row in enumerate(rows):
            ids[i, :len(row)], mask[i, :len(row)] = torch.tensor(row), 1
        return self.encoder(input_ids=ids, attention_mask=mask).last_hidden_state * mask[..., None]
