"""Sentence embeddings of MiniLM-L6-v2 by transformers, on 32 sentences of different lengths.

minilm.json: the sentences. minilm.npz, in the same order: input_ids, attention_mask [32, longest]
i64 (one padded batch) and embedding [32, 384] f32: mean over the mask, then unit length.

Run by `cargo xtask golden`, which passes the folder of fetched students.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from transformers import BertModel

OUT = Path(__file__).parent

SENTENCES = [
    "Hi",
    "Snow.",
    "A cat sat.",
    "The kettle is on.",
    "Where did the river go?",
    "Where has the stream gone?",
    "Prices rose by 3.7% in May 2021.",
    "He plays the cello, badly but gladly.",
    "She repaired the clock that nobody could open.",
    "Copper conducts heat far better than steel does.",
    "Café, naïve, façade: accents come off in this model.",
    "UPPER CASE AND lower case SHOULD NOT MATTER here",
    "The still drips slowly; what it loses in volume it gains in strength.",
    "Distillation keeps what matters and lets the rest go up as vapour.",
    "A small model can answer most questions if a large one taught it well.",
    "fn main() { println!(\"hello\"); } // even code has a meaning of a sort",
    "Call the office on +44 20 7946 0018 before noon, or write to us instead.",
    "The orchard was planted on a south-facing slope above the old railway line.",
    "Rain fell for nine days, and on the tenth the lower meadow had become a lake.",
    "东京 is the capital of 日本; the model sees each character as a word of its own.",
    "Antidisestablishmentarianism and floccinaucinihilipilification split into many pieces.",
    "When the battery is nearly empty, the phone should do less work rather than stop working.",
    "Every morning the baker sets aside a handful of dough, and every evening it is the seed of more.",
    "It was not the height of the mountain that worried them but the short days and the soft snow.",
    "To find the roots of a quadratic, move everything to one side, divide by the leading factor, "
    "and complete the square.",
    "The museum has two rooms of maps, one of instruments, and a cellar full of letters that nobody "
    "has had the time to read.",
    "Bees dance to tell each other where the flowers are: the angle gives the direction and the "
    "length of the run gives the distance.",
    "Whoever designed this bridge thought about the wind, the ice, the weight of a herd of cattle, "
    "and the vanity of the mayor, in that order.",
    "An engine that meets its deadline by skipping work must know which work can be skipped; an "
    "engine that guesses will sooner or later skip the part that mattered, and will not even notice "
    "that it did.",
    "The letter began with an apology for the delay, went on to describe the voyage, the storm and "
    "the repairs, and ended with a list of things to be sent by the next ship: needles, paper, two "
    "pairs of boots, coffee if it could be had, and news of any kind.",
    "Glass is made from sand, soda and lime. Sand alone melts only at a very great heat; soda brings "
    "that heat down to what a wood fire can reach; lime keeps the result from dissolving in water. "
    "A little iron turns it green, a little manganese takes the green away, and a little gold, of "
    "all things, makes it red.",
    "The town clerk kept three books. In the first he wrote down what was decided, in the second "
    "what was paid, and in the third, which he showed to nobody, what had actually been said. When "
    "he died the council burned the third book without opening it, and for forty years afterwards "
    "each family in the town was quite sure of what had been written there, and no two of them "
    "agreed. The first two books are in the library, where schoolchildren are taken to see them "
    "once a year, and are bored.",
]


def main(students):
    source = students / "minilm"
    tokenizer = Tokenizer.from_file(str(source / "tokenizer.json"))
    limit = json.loads((source / "sentence_bert_config.json").read_text())["max_seq_length"]
    tokenizer.enable_truncation(limit)
    tokenizer.enable_padding(pad_id=0, pad_token="[PAD]")
    encoded = tokenizer.encode_batch(SENTENCES)
    ids = np.array([e.ids for e in encoded], np.int64)
    mask = np.array([e.attention_mask for e in encoded], np.int64)

    model = BertModel.from_pretrained(
        source, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    with torch.no_grad():
        hidden = model(torch.tensor(ids), attention_mask=torch.tensor(mask)).last_hidden_state
    weights = torch.tensor(mask, dtype=torch.float32)[..., None]
    embedding = torch.nn.functional.normalize((hidden * weights).sum(1) / weights.sum(1), dim=-1)

    np.savez(
        OUT / "minilm.npz", input_ids=ids, attention_mask=mask, embedding=embedding.numpy()
    )
    text = json.dumps({"sentences": SENTENCES}, indent=2, ensure_ascii=False)
    (OUT / "minilm.json").write_text(text + "\n")
    print(f"minilm: {len(SENTENCES)} sentences of {mask.sum(1).min()} to {mask.sum(1).max()} tokens")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
