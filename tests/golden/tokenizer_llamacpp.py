"""Hard strings and the ids that llama.cpp's own tokenizer gives them.

    pip install llama-cpp-python gguf tokenizers
    python tests/golden/tokenizer_llamacpp.py target/students

Writes, beside this file:
- tokenizer_strings.json, the strings;
- tokenizer_smollm2.json, their ids in SmolLM2's vocabulary;
- gguf/vocab_*.gguf, small vocabularies of every kind (no tensors), trained on those strings;
- tokenizer_vocabs.json, per vocabulary the ids of every string.

Control tokens in a string are parsed; BOS is not added. The argument is the folder of fetched
students.
"""

import json
import sys
from pathlib import Path

import gguf
from llama_cpp import Llama
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

HERE = Path(__file__).parent

PLAIN = [
    "",
    " ",
    "  ",
    "   ",
    "    ",
    " " * 7,
    " " * 16,
    " " * 33,
    "\t",
    "\t\t",
    " \t ",
    "\n",
    "\n\n",
    "\n\n\n\n\n",
    "\r\n",
    "\r\n\r\n",
    "\r",
    " \n",
    "\n ",
    " \n \n ",
    "\t\n\t\n",
    "  \r\n  ",
    "a",
    " a",
    "a ",
    " a ",
    "  a",
    "a  ",
    "   a   b   ",
    "Hello",
    "hello world",
    "Hello, world!",
    " Hello, world! ",
    "HELLO WORLD",
    "hElLo WoRlD",
    "The quick brown fox jumps over the lazy dog.",
    "the quick  brown   fox    jumps",
    "word\nword",
    "word \n word",
    "word\n\n  word",
    "trailing newline\n",
    "trailing spaces   ",
    "\n\nleading newlines",
    "\tindented",
    "\t\tdouble\tindented\t",
    "a\u00a0b",
    "a\u2003b\u2009c",
    "a\u3000b",
    "\u3000\u3000全角",
    "line\u2028separator\u2029paragraph",
    "next\u0085line",
    "vertical\u000btab\u000cform",
    "zero\u200bwidth\u200cnon\u200djoiner",
    "\ufeffbyte order mark",
    "soft\u00adhyphen",
    "null\u0000byte",
    "\u0001\u0002\u0003\u0007\u0008",
    "\u001b[31mred\u001b[0m",
    "\u007fdelete",
    "\u0080\u0090\u009f",
]

CONTRACTIONS = [
    "I'm you're he's she'd we'll they've can't",
    "I'M YOU'RE HE'S SHE'D WE'LL THEY'VE CAN'T",
    "I'm I'M i'm i'M",
    "'s 't 're 've 'm 'll 'd",
    "'S 'T 'RE 'VE 'M 'LL 'D",
    "'Re 'rE 'Ve 'lL",
    "it's'it's",
    "''s'''t",
    "rock 'n' roll",
    "'tis the season",
    "o'clock O'Neill d'accord",
    "I\u2019m you\u2019re it\u2019s",
    "'\u017f '\u212a",
    "dogs' cats'",
    "'",
    "''",
    "' '",
    "'sure 'time 'real 'very 'most 'llama 'done",
]

DIGITS = [
    "0",
    "7",
    "42",
    "123",
    "1234",
    "12345",
    "123456",
    "1234567",
    "12345678901234567890",
    " 1",
    "  12",
    "   123",
    "1 2 3",
    "1  2   3",
    "3.14159",
    "-1",
    "+1",
    "1e-5",
    "1,234,567.89",
    "$1,000",
    "50%",
    "2024-02-29T23:59:59Z",
    "192.168.0.1",
    "v1.2.3-rc4",
    "a1b2c3",
    "abc123def456",
    "x86_64",
    "0xDEADBEEF",
    "1st 2nd 3rd",
    "½ ⅓ ¾ ²³¹",
    "٠١٢٣٤٥٦٧٨٩",
    "०१२३४५६७८९",
    "一二三四五六七八九十",
    "Ⅷ ⅷ ①②③ ㊿",
    "１２３４",
    "𝟏𝟐𝟑",
    "1\n2\n3",
    "100\u00a0000",
    "\t5",
    "5\t",
]

SCRIPTS = [
    "Ünïcödé ñandú façade",
    "naïve café résumé",
    "cafe\u0301 re\u0301sume\u0301",
    "e\u0301\u0323\u0302",
    "Z\u0351\u0325a\u0300l\u0334g\u0353o\u036f",
    "Straße Größe ẞ",
    "İstanbul ıĞğ",
    "Ångström Å Å",
    "ﬁ ﬂ ﬃ ligatures",
    "Привет, мир!",
    "ПРИВЕТ мир как дела",
    "Ελληνικά Αθήνα ΣΑΣ ς",
    "ᾳ ῷ Ὦ",
    "שלום עולם",
    "שָׁלוֹם",
    "مرحبا بالعالم",
    "السَّلَامُ عَلَيْكُمْ",
    "فارسی \u200cمی\u200cخواهم",
    "नमस्ते दुनिया",
    "क्षत्रिय ज्ञान",
    "বাংলা ভাষা",
    "தமிழ் மொழி",
    "తెలుగు భాష",
    "ಕನ್ನಡ",
    "മലയാളം",
    "ગુજરાતી",
    "ਪੰਜਾਬੀ",
    "සිංහල",
    "ภาษาไทยไม่มีช่องว่าง",
    "ພາສາລາວ",
    "မြန်မာဘာသာ",
    "ភាសាខ្មែរ",
    "བོད་སྐད་",
    "ქართული ენა",
    "ᲥᲐᲠᲗᲣᲚᲘ",
    "Հայերեն լեզու",
    "አማርኛ ቋንቋ",
    "ᏣᎳᎩ ᎦᏬᏂᎯᏍᏗ",
    "ᓄᓇᕗᑦ",
    "ᚠᚢᚦᚨᚱᚲ",
    "中文字符测试",
    "简体中文和繁體中文，標點。",
    "日本語のテキスト、カタカナとひらがな。",
    "ｶﾀｶﾅ ﾊﾝｶｸ",
    "한국어 텍스트",
    "ㅎㅏㄴ 한글",
    "Tiếng Việt có dấu",
    "Türkçe çğıöşü",
    "Polski: zażółć gęślą jaźń",
    "Íslenska þð æ",
    "Ĉu vi parolas Esperanton?",
    "ʻŌlelo Hawaiʻi",
    "ߒߞߏ",
    "ⵜⴰⵎⴰⵣⵉⵖⵜ",
    "𐌲𐌿𐍄𐌹𐍃𐌺",
    "𓀀𓀁𓂀",
    "𒀀𒁀",
    "𠮷野家 𠀋",
    "𝓗𝓮𝓵𝓵𝓸 𝕎𝕠𝕣𝕝𝕕",
    "ꙮ Ꙗ",
    "ⰀⰁⰂ",
    "ꓡꓲꓢꓴ",
    "mixed русский English 中文 123 עברית",
    "aбвгd",
    "x²+y²=z²",
    "H₂O CO₂",
    "ªº µ",
]

EMOJI = [
    "😀",
    "😀😃😄",
    "hello 😀 world",
    "👍🏽",
    "👨‍👩‍👧‍👦",
    "👩🏾‍🚀 🧑‍💻",
    "🏳️‍🌈 🏴‍☠️",
    "🇩🇪🇫🇷🇯🇵",
    "1️⃣ 2️⃣ #️⃣",
    "❤️ ❤ ☺︎",
    "🫠🫡🪿",
    "\U0001fae9\U0001fac6",
    "😀a😀 b😀",
    "🤷‍♂️🤦🏻‍♀️",
    "🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f",
]

SYMBOLS = [
    "!",
    "!!!",
    "?!",
    "...",
    "…",
    "--",
    "———",
    "_ __ ___",
    "a_b __init__",
    "«quoted» „deutsch“ “curly” ‘single’",
    "(a) [b] {c} <d>",
    "()[]{}<>",
    "a+b-c*d/e=f",
    "#hashtag @mention",
    "a&b|c^d~e",
    "\\backslash\\n",
    "`code` ```block```",
    "€ £ ¥ ₹ ₿ ¢",
    "∀x∈ℝ: ∃y ≥ x² ∧ ∑ᵢ aᵢ → ∞",
    "← ↑ → ↓ ⇒ ⟹",
    "□ ■ ▲ ▼ ◆ ★ ☆",
    "│├─└ ╔═╗",
    "▁▂▃▄▅▆▇█",
    "▁ ▁▁ a▁b",
    "♠♥♦♣ ♪♫",
    "© ® ™ § ¶ † ‡",
    "¿Qué? ¡Hola!",
    "。、！？「」『』【】",
    "\ufffd \ufffd\ufffd",
    "\ue000\uf8ff",
    "\U000f0000",
    "\ufdd0\uffff\U0010ffff",
    "\u0378\u0530\U0001f9ff",
    "`^´¨¯¸˜",
    "===== -----",
    "*" * 40,
    "=" * 64,
    "-" * 65,
    ". . . .",
    "a.b.c..d...e",
    "$x$ $$y$$",
    " !a !b",
    "!\n?\n",
    "!\r\n",
    " .\n\n",
]

CODE = [
    "def f(x):\n    return x + 1\n",
    "for (int i = 0; i < 10; ++i) {\n\tprintf(\"%d\\n\", i);\n}\n",
    "fn main() {\n    println!(\"{:?}\", vec![1, 2, 3]);\n}",
    "let x: &'static str = \"hi\";",
    "impl<'a> Iterator for Foo<'a> { type Item = &'a [u8]; }",
    "const a = b ?? c?.d ?? `t${e}`;",
    "SELECT * FROM t WHERE a='b' AND c>=10;",
    "<div class=\"a b\" id='c'>text &amp; more</div>",
    "#include <stdio.h>\n#define MAX(a,b) ((a)>(b)?(a):(b))",
    "if [ -z \"$1\" ]; then echo 'no' >&2; exit 1; fi",
    "\\begin{equation} E = mc^2 \\end{equation}",
    "{\"key\": [1, 2.5, true, null], \"nested\": {\"a\": \"b\"}}",
    "class A:\n\tdef __init__(self):\n\t\tself.x = 'it''s'\n\n\n",
    "a = b;  // comment   with   spaces",
    "x = [i**2 for i in range(10) if i%2==0]",
    "import numpy as np\r\nimport torch\r\n",
    "public static void main(String[] args) throws IOException {",
    "@decorator\nasync def g(): yield await h()",
    "(defun fact (n) (if (<= n 1) 1 (* n (fact (- n 1)))))",
    "main :: IO ()\nmain = putStrLn \"λ → ∀\"",
    "regex: ^[a-z0-9_]+(?:\\.[a-z]+)*$",
    "git commit -m \"fix: don't panic\"",
    "    indented by four\n        indented by eight\n  two",
    "\t\t\tif x:\n\t\t\t\tpass",
    "| a | b |\n|---|---|\n| 1 | 2 |\n",
    "# Title\n\n## Sub\n\n* item\n* **bold** _it_\n",
    "```python\nprint('hi')\n```",
]

URLS = [
    "https://example.com/path?query=1&b=two#frag",
    "http://user:pw@host.example:8080/~dir/file.html",
    "mailto:someone@example.org",
    "C:\\Users\\name\\file.txt",
    "/usr/local/bin/thing-2.0",
    "www.münchen.de",
    "ftp://ftp.example.com/%7Euser/a%20b",
    "data:image/png;base64,iVBORw0KGgo=",
]

CONTROL = [
    "<|im_start|>",
    "<|im_end|>",
    "<|endoftext|>",
    "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n",
    "<|im_start|>system\nYou are a helpful AI assistant.<|im_end|>\n",
    "text<|im_end|>text",
    " <|im_start|> ",
    "  <|im_end|>  a",
    "<|im_start|><|im_start|>",
    "<|im_start|",
    "|im_start|>",
    "<|im_start|>>",
    "<<|im_end|>>",
    "<|IM_START|>",
    "<|im_ start|>",
    "<repo_name>x<file_sep>y",
    "<reponame>",
    "<jupyter_code>1+1<jupyter_output>2",
    "<s>",
    "</s>",
    "<s>hello</s>",
    "<s> hello </s> there",
    "<unk>",
    "a<unk>b",
    "[INST] hi [/INST]",
    "<|eot_id|>",
    "<|begin_of_text|>hi<|eot_id|>",
    "<think>hm</think>",
    "<sep>a<sep> b <sep>",
    "<0x0A>",
    "5<|im_end|>5",
    "it<|im_end|>'s",
]

MORE = [
    "a" * 100,
    "ab" * 60,
    "aaa aaaa aaaaa",
    "hahahahahaha",
    "banana bandana ananas",
    "supercalifragilisticexpialidocious",
    "Donaudampfschifffahrtsgesellschaftskapitän",
    "pneumonoultramicroscopicsilicovolcanoconiosis",
    "antidisestablishmentarianism",
    "camelCaseIdentifier PascalCase snake_case kebab-case SCREAMING_CASE",
    "iPhone eBay YouTube McDonald",
    "U.S.A. Ph.D. e.g. i.e.",
    "a,b;c:d.e",
    "tab\there\tand\tthere",
    "  two  spaces  everywhere  ",
    "end of line   \nstart",
    "mixed \t \n \t whitespace \r\n end",
    "x \u00a0 y",
    " \u00a0",
    "\u00a0\u00a0a",
    "\u2003\n\u2003",
    "\u0085\n",
    "The year 1999, the 21st century, and 3.5e10 stars.",
    "Once upon a time, in a land far, far away, there lived 7 dwarfs.",
    "\u0004\u0006\u0013\u0014\u0016\u001d",
    "a\u0004b",
    "the\u0016re",
    "\U00040000\U00080000",
    # Unicode 16: letters, digits and punctuation that llama.cpp's tables do not know
    "a\U000105c0b \u1c89c",
    "1\U00010d402 \U0001e5f13",
    "a\u1b4e.\U00010d6e!",
]

TRAINING = sorted(
    s.replace("\0", "")  # llama.cpp's strings end at NUL
    for s in PLAIN + CONTRACTIONS + DIGITS + SCRIPTS + EMOJI + SYMBOLS + CODE + URLS + MORE
)
STRINGS = (
    PLAIN + CONTRACTIONS + DIGITS + SCRIPTS + EMOJI + SYMBOLS + CODE + URLS + CONTROL + MORE
)


def ids(path: Path) -> list[list[int]]:
    llama = Llama(str(path), vocab_only=True, verbose=False)
    return [llama.tokenize(s.encode(), add_bos=False, special=True) for s in STRINGS]


def write_json(name: str, value: object) -> None:
    lines = ",\n".join(json.dumps(item) for item in value) if isinstance(value, list) else None
    text = f"[\n{lines}\n]\n" if lines is not None else json.dumps(value, indent=0) + "\n"
    (HERE / name).write_text(text)


def writer(path: Path, architecture: str) -> gguf.GGUFWriter:
    out = gguf.GGUFWriter(path, architecture)
    for key, value in [("context_length", 64), ("embedding_length", 32), ("block_count", 1)]:
        out.add_uint32(f"{architecture}.{key}", value)
    return out


def finish(out: gguf.GGUFWriter) -> None:
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()


def byte_level_bpe(path: Path, architecture: str, pre: str, size: int) -> None:
    """A byte-level vocabulary; a few byte tokens are left out, as in SmolLM2's."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r" ?\p{L}+| ?[^\s\p{L}]+|\s+"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=size, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(TRAINING * 2, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    tokens = [t for t, _ in sorted(model["vocab"].items(), key=lambda item: item[1])]
    missing = ["\u0104", "\u0106", "\u00c0", "\u00ff"]
    tokens = [t for t in tokens if not any(m in t for m in missing)]
    kinds = [gguf.TokenType.NORMAL] * len(tokens)
    for text, kind in [
        ("<|endoftext|>", gguf.TokenType.CONTROL),
        ("<|im_start|>", gguf.TokenType.CONTROL),
        ("<|im_end|>", gguf.TokenType.NORMAL),  # control by its text
        ("<think>", gguf.TokenType.USER_DEFINED),
        # a whole word that no merge makes, for vocabularies that look words up first
        ("banana", gguf.TokenType.NORMAL),
        ("\u0120there", gguf.TokenType.NORMAL),
    ]:
        if text not in tokens:
            tokens.append(text)
            kinds.append(kind)
    merges = [" ".join(pair) for pair in model["merges"]]
    merges = [m for m in merges if m.replace(" ", "") in tokens]
    out = writer(path, architecture)
    out.add_tokenizer_model("gpt2")
    out.add_tokenizer_pre(pre)
    out.add_token_list(tokens)
    out.add_token_types(kinds)
    out.add_token_merges(merges)
    out.add_bos_token_id(tokens.index("<|endoftext|>"))
    out.add_eos_token_id(tokens.index("<|im_end|>"))
    finish(out)


def spm(path: Path, prefix: bool, size: int) -> None:
    """A SentencePiece-like vocabulary: bytes, pieces by falling score, characters."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    characters = sorted({c for s in TRAINING for c in s if c.isascii() and c.isprintable()} - {" "})
    trainer = trainers.BpeTrainer(
        vocab_size=size, initial_alphabet=characters, limit_alphabet=300, show_progress=False
    )
    tokenizer.train_from_iterator(TRAINING * 2, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    pieces = ["".join(pair) for pair in model["merges"]]
    # Runs, as in Llama's vocabulary: several ways lead to one token.
    pieces += ["▁" * n for n in (2, 4, 3, 8, 16)] + ["ana", "anan", "aba", "abab", "ababa"]
    pieces += ["aa", "aaa", "aaaa"]
    pieces = list(dict.fromkeys(pieces))
    single = sorted({c for t in [*model["vocab"], *pieces] for c in t})
    tokens = ["<unk>", "<s>", "</s>"] + [f"<0x{b:02X}>" for b in range(256)]
    kinds = [gguf.TokenType.UNKNOWN] + [gguf.TokenType.CONTROL] * 2
    kinds += [gguf.TokenType.BYTE] * 256
    scores = [0.0] * len(tokens)
    for rank, piece in enumerate(pieces + single):
        tokens.append(piece)
        kinds.append(gguf.TokenType.NORMAL)
        scores.append(-float(rank))
    for text, kind in [
        ("<sep>", gguf.TokenType.USER_DEFINED),
        ("<|im_start|>", gguf.TokenType.CONTROL),
    ]:
        tokens.append(text)
        kinds.append(kind)
        scores.append(-1000.0)
    out = writer(path, "llama")
    out.add_tokenizer_model("llama")
    out.add_token_list(tokens)
    out.add_token_scores(scores)
    out.add_token_types(kinds)
    out.add_bos_token_id(1)
    out.add_eos_token_id(2)
    out.add_unk_token_id(0)
    out.add_add_space_prefix(prefix)
    finish(out)


def main() -> None:
    assert len(set(STRINGS)) == len(STRINGS)
    write_json("tokenizer_strings.json", STRINGS)
    smollm2 = Path(sys.argv[1]) / "smollm2" / "SmolLM2-135M-Instruct.Q4_1.gguf"
    write_json("tokenizer_smollm2.json", ids(smollm2))
    folder = HERE / "gguf"
    folder.mkdir(exist_ok=True)
    byte_level_bpe(folder / "vocab_qwen2.gguf", "qwen2", "qwen2", 700)
    byte_level_bpe(folder / "vocab_llama_bpe.gguf", "llama", "llama-bpe", 700)
    byte_level_bpe(folder / "vocab_gpt2.gguf", "llama", "gpt-2", 500)
    byte_level_bpe(folder / "vocab_default.gguf", "llama", "default", 500)
    byte_level_bpe(folder / "vocab_smollm.gguf", "llama", "smollm", 500)
    spm(folder / "vocab_spm.gguf", True, 700)
    spm(folder / "vocab_spm_no_prefix.gguf", False, 500)
    write_json(
        "tokenizer_vocabs.json",
        {path.stem: ids(path) for path in sorted(folder.glob("vocab_*.gguf"))},
    )


if __name__ == "__main__":
    main()
