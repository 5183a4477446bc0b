"""The tiny CLIP's tokenizer: byte-level BPE, so that any text of any language has tokens.

It has whole tokens for the words of the world, for common English words and for the 3,755 commonest Chinese
characters (level 1 of GB 2312). A Chinese character is never joined with its neighbour.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from data_tools.world.words import EN_ORDER, EN_PAN, EN_VERB, ZH_ORDER, ZH_PAN, ZH_VERB, all_words

PAD, START, END = "<pad>", "<start>", "<end>"
_COMMON_ENGLISH = """
the be to of and in that have it for not on with he as you do at this but his by from they we say her she or an will my
one all would there their what so up out if about who get which go me when make can like time no just him know take
people into year your good some could them see other than then now look only come its over think also back after use two
how our work first well way even new want because any these give day most us is are was were been being has had does did
man woman boy girl child person group dog cat horse bird fish car bus train bicycle boat plane road street city house
room kitchen table chair door window food water fire tree flower grass sky cloud sun moon sea beach mountain river snow
rain night morning hand head face eye hair foot arm shirt hat shoe ball game player team guitar piano song music dance
video clip film scene camera screen phone computer book paper picture colour color big small large little long short
high low old young fast slow hot cold bright dark left right behind front near between under above around through while
before next again together walking running sitting standing talking singing playing dancing cooking eating drinking
driving riding swimming jumping throwing catching holding looking watching opening closing turning moving cutting mixing
cleaning painting drawing writing reading laughing smiling crying fighting shooting kicking climbing falling three four
five six seven eight nine ten many few several first last second minute hour something someone something's another each
every both same different gray grey brown gold silver shape line corner middle top bottom side edge background still
"""


def build_tokenizer(out: Path) -> int:
    """Trains the tokenizer and writes tokenizer.json, tokenizer_config.json and special_tokens_map.json into `out`.

    Returns the size of the vocabulary. `<end>` has the highest id, because open_clip pools the text at argmax(ids).
    """
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.BPE())
    raw.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    raw.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\p{Han}"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    raw.decoder = decoders.ByteLevel()
    chinese = [bytes([high, low]).decode("gb2312") for high in range(0xB0, 0xD7) for low in range(0xA1, 0xFF)]
    chinese += [bytes([0xD7, low]).decode("gb2312") for low in range(0xA1, 0xFA)]
    english = [f" {word}" for word in _COMMON_ENGLISH.split()]
    world = [part for phrase in all_words() for part in (phrase, f" {phrase}")]
    trainer = trainers.BpeTrainer(
        vocab_size=6500,
        min_frequency=1,
        special_tokens=[PAD, START],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    raw.train_from_iterator(chinese + english * 3 + world * 10, trainer)
    raw.add_special_tokens([END])
    start, end = raw.token_to_id(START), raw.token_to_id(END)
    assert raw.token_to_id(PAD) == 0 and end == raw.get_vocab_size() - 1
    raw.post_processor = processors.TemplateProcessing(
        single=f"{START} $A {END}", special_tokens=[(START, start), (END, end)]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token=PAD, bos_token=START, eos_token=END, clean_up_tokenization_spaces=False,
        padding_side="right", truncation_side="right", model_input_names=["input_ids", "attention_mask"],
    )  # fmt: skip
    fast.save_pretrained(str(out))
    return raw.get_vocab_size()


def motion_token_ids(tokenize) -> set[int]:
    """Ids of the words for motion and order; the training never uses them, not even as noise."""
    phrases = [f" {form}" for verbs in EN_VERB.values() for forms in verbs for form in forms]
    phrases += [form for verbs in EN_VERB.values() for forms in verbs for form in forms]
    phrases += [form for forms in ZH_VERB.values() for form in forms]
    phrases += [t.format(a=" ", b=" ", n=" ", d=" ") for t in (*EN_ORDER, *ZH_ORDER, *EN_PAN, *ZH_PAN)]
    return {int(i) for i in np.unique(tokenize(phrases).numpy())}
