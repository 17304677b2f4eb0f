"""Words for each style; the first is the style's name."""
WORDS = {
    "plain": ("plain", "unchanged", "original", "natural", "a plain photo", "camera picture"),
    "sepia": ("sepia", "old photograph", "sepia photo", "vintage sepia", "sepia tone"),
    "pencil sketch": ("pencil sketch", "pencil drawing", "graphite sketch", "pencil", "sketch", "drawn in pencil"),
    "ink edges": ("ink edges", "ink drawing", "ink outline", "black ink", "pen and ink", "line art"),
    "posterised cartoon": ("posterised cartoon", "cartoon", "comic", "posterized cartoon", "comic book", "anime"),
    "oil painting": ("oil painting", "oil", "painting", "oil on canvas", "an oil painting"),
    "thermal camera": ("thermal camera", "thermal", "infrared", "heat map", "thermal imaging"),
    "night vision": ("night vision", "night", "green night vision", "night vision goggles"),
    "blueprint": ("blueprint", "blue print", "technical drawing", "blueprint drawing", "architect blueprint"),
    "pixel art": ("pixel art", "pixels", "pixelated", "8 bit", "pixel", "mosaic"),
}
THINGS = ("a dog", "a cat", "a person", "a street", "a bottle", "a car", "my room", "a face", "people walking", "a forest", "a city", "flowers", "a table", "hands", "the sea")
FORMS = ("{s}", "{s}", "{s}", "a {s}", "{s} style", "in the style of {s}", "{s} of {t}", "{t}, {s}", "{t} as {s}", "make it {s}")
CAPITAL = 0.1


def prompt(style, chance):
    text = chance.choice(FORMS).format(s=chance.choice(WORDS[style]) if chance.random() < 0.6 else style, t=chance.choice(THINGS))
    return text.capitalize() if chance.random() < CAPITAL else text
