"""Learned text encoders behind one protocol: ragged, the same alone and in a batch, from disk and offline."""

import json

import pytest
import torch
from transformers import Qwen2Config, Qwen2Model, T5Config, T5EncoderModel, UMT5Config, UMT5EncoderModel

from captioner.coca.checkpoint import save_stage
from captioner.coca.folder import write_folder
from captioner.coca.model import VideoCoCa
from captioner.coca.tokenizer import CaptionTokenizer
from captioner.registry import make_text_encoder
from manifests.errors import UsageError
from tests.captioner.backends.tiny_vlm import tokenizer
from tests.captioner.coca.small import SMALL

TEXTS = ["a red ball", "A large blue box in a sandy desert, in warm light. The camera pans right.", "x"]


def check(encoder):
    encoder.setup()
    alone = [encoder.encode([text])[0] for text in TEXTS]
    together = encoder.encode(TEXTS)
    assert len({len(row) for row in together}) == len(TEXTS)  # no padding to a common length
    for one, other in zip(alone, together, strict=True):
        assert one.dtype == torch.float32
        assert one.shape == other.shape == (len(one), encoder.width)
        assert torch.allclose(one, other, atol=2e-5)
    assert not torch.allclose(
        encoder.encode(["red ball on blue box"])[0][:3], encoder.encode(["blue ball on red box"])[0][:3]
    )
    return together


@pytest.mark.parametrize(("config", "model"), [(T5Config, T5EncoderModel), (UMT5Config, UMT5EncoderModel)])
def test_encoders_of_t5_kind(tmp_path, config, model):
    words = tokenizer(["<|endoftext|>", "</s>"], eos_token="</s>")
    torch.manual_seed(0)
    sizes = config(
        vocab_size=len(words),
        d_model=32,
        d_kv=8,
        d_ff=64,
        num_layers=2,
        num_heads=4,
        pad_token_id=0,
        eos_token_id=1,
    )
    model(sizes).eval().save_pretrained(tmp_path)
    words.save_pretrained(tmp_path)
    check(make_text_encoder("transformers", str(tmp_path)))


def test_last_hidden_states_of_a_causal_model(tmp_path):
    words = tokenizer(["<|endoftext|>", "<|im_end|>"], eos_token="<|im_end|>")
    torch.manual_seed(0)
    sizes = Qwen2Config(
        vocab_size=len(words),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    Qwen2Model(sizes).eval().save_pretrained(tmp_path)
    words.save_pretrained(tmp_path)
    encoder = make_text_encoder("transformers", str(tmp_path))
    check(encoder)
    assert encoder.version.startswith(f"transformers-text/1:{tmp_path.name}:")


def test_any_text_tower_of_open_clip(tmp_path):
    import open_clip

    sizes = {
        "embed_dim": 32,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "patch_size": 16, "head_width": 16},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
    }
    (tmp_path / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": sizes, "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3}})
    )
    torch.manual_seed(0)
    torch.save(
        open_clip.CLIP(
            32, open_clip.CLIPVisionCfg(**sizes["vision_cfg"]), open_clip.CLIPTextCfg(**sizes["text_cfg"])
        ).state_dict(),
        tmp_path / "open_clip_pytorch_model.bin",
    )
    check(make_text_encoder("open_clip", f"local-dir:{tmp_path}"))


def test_texts_of_towers_with_other_words_are_whole(tmp_path):
    """Their end token is not the one with the highest id, and may be the padding, as SigLIP's is."""
    import open_clip

    words = tokenizer(["<|endoftext|>", "</s>"], eos_token="</s>")
    words.pad_token = words.eos_token
    words.save_pretrained(tmp_path)
    text = {"context_length": 40, "vocab_size": len(words), "width": 32, "heads": 2, "layers": 2}
    text |= {"hf_tokenizer_name": "its own", "no_causal_mask": True, "pool_type": "last"}
    sizes = {
        "embed_dim": 32,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "patch_size": 16, "head_width": 16},
        "text_cfg": text,
        "custom_text": True,
    }
    (tmp_path / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": sizes, "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3}})
    )
    torch.manual_seed(0)
    model = open_clip.CustomTextCLIP(
        32, open_clip.CLIPVisionCfg(**sizes["vision_cfg"]), open_clip.CLIPTextCfg(**text)
    )
    torch.save(model.state_dict(), tmp_path / "open_clip_pytorch_model.bin")
    encoder = make_text_encoder("open_clip", f"local-dir:{tmp_path}")
    check(encoder)
    for said, states in zip(TEXTS, encoder.encode(TEXTS), strict=True):
        assert len(states) == min(40, len(words(said, add_special_tokens=False)["input_ids"]) + 1)
    assert encoder.version.startswith("open-clip-text/2:")


def test_the_captioners_own_tower(tmp_path):
    words = CaptionTokenizer.train(TEXTS * 10, SMALL.vocab_size)
    torch.manual_seed(0)
    save_stage(write_folder(tmp_path, SMALL, words), "dense", VideoCoCa(SMALL).state_dict(), {})
    encoder = make_text_encoder("coca", str(tmp_path))
    check(encoder)
    long = " and ".join(TEXTS[1:2] * 12)
    assert (
        len(encoder.encode([long])[0]) == len(words.encode(long)) + 2 > SMALL.context_length
    )  # nothing is cut off
    assert encoder.version.startswith("coca-text/2:")
    with pytest.raises(UsageError, match="holds no captioner"):
        make_text_encoder("coca", str(tmp_path / "nothing"))


def test_models_must_be_named():
    for name in ("open_clip", "transformers"):
        with pytest.raises(UsageError, match=r"--text\.model"):
            make_text_encoder(name)
