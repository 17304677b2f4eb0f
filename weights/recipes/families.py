"""The two families that the recipes train, told apart by the model_index.json of the folder to begin from: PixArt with T5, U-Net with CLIP."""
import torch
from diffusers import PixArtTransformer2DModel, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer, PreTrainedTokenizerFast, T5EncoderModel

from common import TOKENS, load_json


class PixArt:
    part, network, encoder = "transformer", PixArtTransformer2DModel, T5EncoderModel

    @staticmethod
    def tokenizer(folder):
        return PreTrainedTokenizerFast.from_pretrained(folder)

    @staticmethod
    def encode(encoder, tokens):
        return encoder(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]).last_hidden_state

    @staticmethod
    def predict(model, noisy, t, text, mask):
        return model(noisy, encoder_hidden_states=text, timestep=t, encoder_attention_mask=mask).sample

    @staticmethod
    def is_block_matrix(name, p):
        return p.ndim == 2 and "transformer_blocks" in name and "scale_shift" not in name


class StableDiffusion:
    """No mask: the U-Net attends to the padding too, as the family's pipelines do."""

    part, network, encoder = "unet", UNet2DConditionModel, CLIPTextModel

    @staticmethod
    def tokenizer(folder):
        return CLIPTokenizer.from_pretrained(folder)

    @staticmethod
    def encode(encoder, tokens):
        return encoder(input_ids=tokens["input_ids"]).last_hidden_state

    @staticmethod
    def predict(model, noisy, t, text, mask):
        return model(noisy, t, encoder_hidden_states=text).sample

    @staticmethod
    def is_block_matrix(name, p):
        return p.ndim == 2 and "transformer_blocks" in name


def family(folder):
    return PixArt if "PixArt" in load_json(f"{folder}/model_index.json")["_class_name"] else StableDiffusion


def tokenize(tokenizer, words):
    return tokenizer(words, padding="max_length", truncation=True, max_length=TOKENS, return_tensors="pt")


def text_states(kind, encoder, tokens):
    with torch.autocast("cpu", torch.bfloat16):
        return kind.encode(encoder, tokens)
