"""Records CLIP's tokens for generated strings: what `tokens_match_clip.rs` compares with.

    pip install ftfy==6.3.1 regex clip-anytorch==2.6.0
    python tokens.py                                  # tokens.json
    python tokens.py --count 100000 --seed 1 --out /tmp/many.json
    CLEARWAY_TOKENS=/tmp/many.json cargo test --release --workspace --test tokens_match_clip

The tokenizer is OpenAI's `SimpleTokenizer`, from PyPI's copy. Strings are drawn from everything that its cleaning
touches: scripts, emoji, combining marks, entities, mojibake of several kinds, control characters. Characters are those
of Unicode 14, which is Python 3.11's: what later versions added, each program knows by its own tables.
"""

import argparse
import html
import importlib.util
import json
import pathlib
import random
import sys
import unicodedata

import ftfy
import regex

WORDS = """a an the of in cat dog house portrait landscape photograph astronaut riding horse highly detailed 4k 8K HDR
artstation trending masterpiece cinematic lighting octane render it's don't we're I'll they've o'clock 1920s CamelCase
snake_case kebab-case file.png http://example.com/a?b=c&d=e #tag @user 50mm f/1.8 1/60s (word:1.2) [word] {a|b}
<lora:x:0.8> <|startoftext|> <|endoftext|> café naïve Straße Ærøskøbing İstanbul ΟΔΥΣΣΕΥΣ Łódź Dvořák""".split()
SCRIPTS = ["Привет мир фотография", "日本語の写真を撮る", "一只猫在桌子上", "한국어 사진 고양이", "صورة قطة على طاولة",
           "תמונה של חתול", "ภาพถ่ายแมว", "बिल्ली की तस्वीर", "φωτογραφία γάτας ΤΗΣ", "Հայերեն լուսանկար", "ქართული ფოტო",
           "Tiếng Việt ảnh con mèo"]
EMOJI = ["😀", "🎨", "👩‍🚀", "🏳️‍🌈", "🇯🇵", "👍🏽", "❤️", "✨", "™", "©", "🏴󠁧󠁢󠁷󠁬󠁳󠁿", "㊗", "①", "½", "²", "Ⅷ", "٣", "ⓐ", "ﷺ"]
MARKS = ["e\u0301", "n\u0303", "o\u0308", "A\u030a", "\u0301", "\u0345", "q\u0307\u0323", "\u1100\u1161\u11a8", "\u212b", "\u2126",
         "\u0958", "ſ", "\u017f't", "'ſ", "K", "ẞ", "ǅ", "ĳ", "ŉ", "ﬁ", "ﬃ", "ﬅ", "ﬓ"]
WIDE = ["ＬＯＵＤ　ＮＯＩＳＥ", "１２３", "，", "ﾀｰﾝ", "ﾊﾟ", "（cat：１.２）", "ￅ", "￦", "￡", "〜", "～"]
QUOTES = ["“", "”", "‘", "’", "‚", "„", "‹", "«", "»", "ʼ", "‛", "‟", "′", "–", "—", "…", "•"]
SPACES = [" ", "  ", "\t", "\n", "\r\n", "\r", "\u00a0", "\u2003", "\u200b", "\u3000", "\u2028", "\u2029", "\u0085", "\x1c", "\x1f", "\v", "\f", "\u180e", "\u1680"]
CONTROLS = ["\0", "\x07", "\x1a", "\x1b[31m", "\x1b[0m", "\x1b[1;٣m", "\x7f", "\x80", "\x81", "\x85", "\x9d", "\ufeff", "\u200d", "\u202e", "\u206a",
            "\ufff9", "\ufffc", "\ufffd", "\u00ad", "\ue000", "\uf8ff", "\ufffe", "\U0010ffff", "\U000e0041"]
ENTITIES = ["&amp;", "&lt;", "&gt;", "&quot;", "&#39;", "&#x27;", "&eacute;", "&EACUTE;", "&nTILDE;", "&amp", "&ampamp;", "&notit;", "&notin;",
            "&AMP;amp;", "&amp;lt;", "&#0;", "&#128;", "&#x81;", "&#xD800;", "&#xdc00;", "&#1114112;", "&#99999999999999999999;", "&#1;", "&#59;", "&#x3b", "&nbsp;", "&hellip;",
            "&SZLIG;", "&Jscr;", "&CounterClockwiseContourIntegral;", "&nosuch;", "&;", "&#;", "&#x;", "&", "&copy", "&copyright;", "&NotEqualTilde;", "&fjlig;",
            "&THORN;", "&thorn;", "&Auml", "&AUML;", "&HELLIP;", "&NBSP;", "&COPY;", "&MDASH;", "&#x1F600;", "&#65279;", "<", ">", "<b>"]
ENCODINGS = ["latin-1", "sloppy-windows-1252", "sloppy-windows-1251", "sloppy-windows-1250", "sloppy-windows-1253", "sloppy-windows-1254",
             "sloppy-windows-1257", "iso-8859-2", "macroman", "cp437", "windows-1252"]
GARBLED = ["é", "à", "à la mode", "ça", "’", "“quoted”", "—", "…", "über", "naïve", "Москва", "日本", "😀", "ğ", "Łódź", "ô", "€5", "£", "ï»¿", "à noite", "àquele", "às ", "Š", "Ρ", "٠٣",
           "\u00a0", "Ã", "Â", "½", "°", "²", "±", "Πλάτων", "ابو", "हिन्दी", "ไทย", "żółw", "ñandú", "\0", "\u0441", "fi\ufb01", "\uf8ff"]

# The characters that mojibake consists of, and what is found between them.
SOUP = sorted({c for e in ENCODINGS for c in bytes(range(0x80, 0x100)).decode(e, "ignore")}) + list("aAzZsT  ?.,'\n\x1a\ufffd")
LEADS = "ÂÃÅÎÐÙâãàðáéíôäåæГРСВвÂÃâĀāĂăΒβΓŠ‚√≈ØÙ×œŒ"


def soup(rng):
    return "".join(rng.choice(LEADS) if rng.random() < 0.3 else rng.choice(SOUP) for _ in range(rng.randint(1, 12)))


def reference_soup(rng):
    name = rng.choice(sorted(html.entities.html5))
    name = rng.choice([name, name.upper(), name.rstrip(";"), name[: rng.randint(0, len(name))], "#" + str(rng.randrange(0x300)), f"#x{ord(anything(rng)):x};", f"#x{rng.randrange(0x110000, 0x200000):x};"])
    return "&" + name + rng.choice(["", "", ";", "a", "&", "é"])


def garble(rng):
    text = "".join(rng.choice(GARBLED) + rng.choice(["", "", " ", "s"]) for _ in range(rng.randint(1, 3)))
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        data = text.encode("utf-8", "surrogatepass")
        if rng.random() < 0.1:
            data = b"".join(
                b"".join(chr(u).encode("utf-8", "surrogatepass") for u in units) if len(units) == 2 else c.encode()
                for c in text
                for units in [[int.from_bytes(c.encode("utf-16-be")[i:i + 2], "big") for i in range(0, len(c.encode("utf-16-be")), 2)]]
            )
        if rng.random() < 0.05:
            data = data.replace(b"\0", b"\xc0\x80")
        text = data.decode(rng.choice(ENCODINGS), "replace" if rng.random() < 0.3 else "ignore")
    if rng.random() < 0.2:
        text = text.replace("\u00a0", " ")
    if rng.random() < 0.1:
        text = text.replace("\ufffd", "?")
    if rng.random() < 0.05:
        text = text[: rng.randint(0, len(text))] + rng.choice(["À", "À\n", "\u00c0\n"])
    return text


def anything(rng):
    """A character of any kind that Python's Unicode knows."""
    while True:
        c = chr(rng.choice([rng.randrange(0x250), rng.randrange(0x3000), rng.randrange(0x10000), rng.randrange(0x20000), rng.randrange(0x110000)]))
        if unicodedata.category(c) not in ("Cn", "Cs"):
            return c


def string(rng):
    kinds = [
        (8, lambda: rng.choice(WORDS)), (2, lambda: rng.choice(WORDS).upper()), (2, lambda: rng.choice(SCRIPTS)), (2, lambda: rng.choice(EMOJI)),
        (2, lambda: rng.choice(MARKS)), (1, lambda: rng.choice(WIDE)), (2, lambda: rng.choice(QUOTES)), (2, lambda: rng.choice(CONTROLS)),
        (3, lambda: rng.choice(ENTITIES)), (4, lambda: garble(rng)), (3, lambda: soup(rng)), (1, lambda: reference_soup(rng)), (2, lambda: "".join(anything(rng) for _ in range(rng.randint(1, 4)))),
        (1, lambda: str(rng.randrange(10 ** rng.randint(1, 8)))), (1, lambda: "".join(rng.choice("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~") for _ in range(rng.randint(1, 5)))),
        (1, lambda: "".join(rng.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(rng.randint(1, 15)))),
        (1, lambda: html.escape(rng.choice(WORDS))), (1, lambda: "".join(chr(rng.randrange(0x80, 0x250)) for _ in range(rng.randint(1, 6)))),
    ]
    rng_kinds = rng.sample(kinds, rng.randint(1, len(kinds)))
    weights = [weight for weight, _ in rng_kinds]
    parts = []
    for _ in range(rng.randint(1, 10)):
        parts.append(rng.choices(rng_kinds, weights)[0][1]())
        if rng.random() < 0.6:
            parts.append(rng.choice(SPACES) if rng.random() < 0.3 else " ")
    # A lone surrogate is no text in Rust.
    return "".join(parts).encode("utf-8", "replace").decode("utf-8")


def reference():
    """OpenAI's tokenizer, without the package around it, which needs torchvision."""
    folder = pathlib.Path(next(iter(importlib.util.find_spec("clip").submodule_search_locations)))
    spec = importlib.util.spec_from_file_location("simple_tokenizer", folder / "simple_tokenizer.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.SimpleTokenizer()


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--count", type=int, default=400)
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--out", type=pathlib.Path, default=pathlib.Path(__file__).with_name("tokens.json"))
    arguments = arguments.parse_args()
    rng = random.Random(arguments.seed)
    tokenizer = reference()
    cases = []
    for _ in range(arguments.count):
        text = string(rng)
        cases.append({"text": text, "ids": tokenizer.encode(text)})
    versions = {
        "ftfy": ftfy.__version__, "regex": regex.__version__, "python": sys.version.split()[0], "unicode": unicodedata.unidata_version,
    }
    with open(arguments.out, "w") as file:
        file.write('{"versions": ' + json.dumps(versions) + f', "seed": {arguments.seed}, "cases": [\n')
        file.write(",\n".join(json.dumps(case, separators=(",", ":")) for case in cases))
        file.write("\n]}\n")


if __name__ == "__main__":
    main()
