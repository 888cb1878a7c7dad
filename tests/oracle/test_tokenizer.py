"""tokens.kind=gpt2 against tiktoken's GPT-2 and transformers' own, on a page of many scripts."""

# ruff: noqa: RUF001  (letters that look alike are the point)

import os
import shutil
from pathlib import Path

import pytest
import tiktoken
from transformers import AutoTokenizer, GPT2Tokenizer

from troupe.bundles.export import export_model
from troupe.data.bpe import make_tokenizer
from troupe.data.tokenizer import Tokenizer
from troupe.models.config import GPTConfig
from troupe.models.gpt2 import GPT

MIRROR = Path(os.environ.get("TROUPE_MIRROR", "."), "gpt2")
pytestmark = pytest.mark.skipif(
    not (MIRROR / "vocab.bpe").is_file(),
    reason="needs GPT-2's vocabulary in the folder that TROUPE_MIRROR names",
)

PAGE = """\
English: It's the reader's 1st page, isn't it? We'll see; they've said I'd (or he'd) go. THEY'RE, don'T, rock 'n' roll.
Deutsch: Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich – 1.234,56 €.
Français : « Voix ambiguë d’un cœur qui, au zéphyr, préfère les jattes de kiwis » ; œuvre, naïf, 3½.
Polski: Pchnąć w tę łódź jeża lub ośm skrzyń fig. Türkçe: Pijamalı hasta yağız şoföre çabucak güvendi; İI ıi.
Tiếng Việt: Trường đại học ở thành phố Hồ Chí Minh, nghiêng nghiêng.
Ελληνικά: Ξεσκεπάζω την ψυχοφθόρα βδελυγμία. Русский: Съешь же ещё этих мягких французских булок, да выпей чаю.
עברית: דג סקרן שט בים מאוכזב ולפתע מצא חברה. עם ניקוד: בְּרֵאשִׁית
العربية: نص حكيم له سر قاطع وذو شأن عظيم، ١٢٣٤؟ فارسی: می‌خواهم
हिन्दी: ऋषियों को सताने वाले दुष्ट राक्षसों के राजा रावण। ตัวอย่าง: เป็นมนุษย์สุดประเสริฐเลิศคุณค่า
日本語: いろはにほへと、ちりぬるを。カタカナ、漢字、ﾊﾝｶｸ。中文:天地玄黄,宇宙洪荒。繁體:龍龜鬱。
한국어: 키스의 고유조건은 입술끼리 만나야 한다.
ქართული: ვეფხის ტყაოსანი. አማርኛ: ሰላም ለዓለም። ᏣᎳᎩ. 𐍈 𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𝟙𝟚𝟛
Emoji: 😀😃 👩‍👩‍👧‍👦 👍🏽 🇪🇺🇯🇵 ❤️ ☃ 🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f
Marks: e\u0301 é A\u030a Å \u1e9b\u0323 Z̸̢a̷l̴g̶o̵ ﬁ ﷽ \u200bzero\u200dwidth\u2060 \ufeffbom \ufffd
Spaces: a  b   c    d\u00a0e\u2003f\u3000g\tTab\t\tTabs \t mixed\u2028line\u2029paragraph\x0bvt\x0cff\x85nel
Trailing:   \x20
\r\nwindows\r\n\r\n\n\n\n   three blank lines before; control: \x00\x01\x1b[0m\x7f
def f(x: int = 0x_FF) -> list[str]:  # code
    return [f"{x!r:>08}" for _ in range(10_000)]    # 4 spaces, `ticks`, $E=mc^2$, \\n
for (;;) { a[i++] <<= b->c ? ~d : !e; }  /* C */ <p class="q">&nbsp;</p> {"k": [1e-9, null]} https://a.b/c?d=e&f#g
1234567890 12 345 6789 1/2 ²³ ⅓ Ⅻ ٣ ०१२ ３４ -5 +6 1,000,000.00 %&*()_+={}[]|;:'"<>?/~`!@#
""" + "".join(("a" * 300, " " * 300, "\n" * 30, "é" * 100, "!?" * 50, " end "))


@pytest.fixture(scope="module")
def ours() -> Tokenizer:
    return make_tokenizer("gpt2", "", 0)


def test_the_page_holds_what_it_is_for() -> None:
    assert len({ord(character) >> 7 for character in PAGE}) > 50, "blocks of 128 characters"


def test_ids_equal_tiktokens(ours: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(MIRROR / "vocab.bpe", tmp_path / "6d1cbeee0f20b3d9449abfede4726ed8212e3aee")
    shutil.copy(MIRROR / "encoder.json", tmp_path / "6c7ea1a7e38e3a7f062df639a5b80947f075ffe6")
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    theirs = tiktoken.get_encoding("gpt2")
    assert ours.vocab_size == theirs.n_vocab
    assert ours.encode(PAGE) == theirs.encode_ordinary(PAGE)
    assert ours.decode(ours.encode(PAGE)) == PAGE


def test_ids_equal_those_of_transformers(ours: Tokenizer, tmp_path: Path) -> None:
    """Its own tokenizer, from OpenAI's files under the names it knows."""
    shutil.copy(MIRROR / "encoder.json", tmp_path / "vocab.json")
    shutil.copy(MIRROR / "vocab.bpe", tmp_path / "merges.txt")
    theirs = GPT2Tokenizer.from_pretrained(tmp_path)
    assert len(theirs) == ours.vocab_size
    assert ours.encode(PAGE) == theirs.encode(PAGE)


def test_the_exported_tokenizer_is_gpt2s(ours: Tokenizer, tmp_path: Path) -> None:
    """Also its one special token, which transformers, other than ours, looks for in a text."""
    export_model(tmp_path, GPT(GPTConfig(ours.vocab_size, 8192, 1, 1, 1, 0.0)), ours)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    assert theirs.encode(PAGE) == ours.encode(PAGE)
    assert theirs.decode(ours.encode(PAGE)) == PAGE
    assert (theirs.eos_token_id, theirs.encode("<|endoftext|>")) == (50_256, [50_256])
