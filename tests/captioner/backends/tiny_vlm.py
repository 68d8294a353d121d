"""Tiny random vision-language models of the real classes, saved as a folder that the Auto classes load: what
a hub would give, two megabytes large.
"""

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

QWEN_SPECIAL = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
]
QWEN_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% if m['content'] is string %}{{ m['content'] "
    "}}{% else %}{% for c in m['content'] %}"
    "{% if c['type']=='image' %}<|vision_start|><|image_pad|><|vision_end|>{% elif c['type']=='video' "
    "%}<|vision_start|><|video_pad|><|vision_end|>"
    "{% elif c['type']=='text' %}{{ c['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SMOL_SPECIAL = [
    "<|endoftext|>",
    "<|im_start|>",
    "<end_of_utterance>",
    "<fake_token_around_image>",
    "<image>",
    "<global-img>",
]
SMOL_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}: {% for c in m['content'] %}{% if "
    "c['type']=='image' %}<image>{% elif c['type']=='video' %}<video>"
    "{% elif c['type']=='text' %}{{ c['text'] }}{% endif %}{% endfor %}<end_of_utterance>\n{% endfor %}{% "
    "if add_generation_prompt %}Assistant:{% endif %}"
)
INTERN_SPECIAL = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<img>",
    "</img>",
    "<IMG_CONTEXT>",
    "<video>",
]
INTERN_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% if m['content'] is string %}{{ m['content'] "
    "}}{% else %}{% for c in m['content'] %}"
    "{% if c['type']=='image' %}<IMG_CONTEXT>\n{% elif c['type']=='video' %}<video>\n{% elif "
    "c['type']=='text' %}{{ c['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CORPUS = [
    "Describe this video in detail: each subject with its look and place.",
    "A small red ball moves from left to right.",
    "Frame at 0.50 s:",
] * 20


def tokenizer(special, **names):
    found = Tokenizer(models.BPE())
    found.pre_tokenizer, found.decoder = (
        pre_tokenizers.ByteLevel(add_prefix_space=False),
        decoders.ByteLevel(),
    )
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    found.train_from_iterator(
        CORPUS,
        trainers.BpeTrainer(
            vocab_size=420, special_tokens=special, initial_alphabet=alphabet, show_progress=False
        ),
    )
    return PreTrainedTokenizerFast(tokenizer_object=found, pad_token="<|endoftext|>", **names)


def make(family, folder):
    """One of qwen2_5_vl, qwen3_vl, smolvlm and internvl, saved in `folder`."""
    return (
        {"smolvlm": smolvlm, "internvl": internvl}[family](folder)
        if family in {"smolvlm", "internvl"}
        else qwen(family, folder)
    )


def qwen(kind, folder):
    """qwen2_5_vl or qwen3_vl."""
    import transformers as hf

    words = tokenizer(QWEN_SPECIAL, eos_token="<|im_end|>")
    ids = {name: words.convert_tokens_to_ids(name) for name in QWEN_SPECIAL}
    text = {
        "vocab_size": len(words),
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 8192,
        "bos_token_id": None,
        "eos_token_id": ids["<|im_end|>"],
        "pad_token_id": 0,
    }
    rope = {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 1e6}
    vision = {
        "depth": 2,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_heads": 4,
        "out_hidden_size": 64,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
    }
    if kind == "qwen2_5_vl":
        config, model, video, processor = (
            hf.Qwen2_5_VLConfig,
            hf.Qwen2_5_VLForConditionalGeneration,
            hf.Qwen2VLVideoProcessor,
            hf.Qwen2_5_VLProcessor,
        )
        text |= {"rope_parameters": rope}
        vision |= {"patch_size": 14, "window_size": 112, "fullatt_block_indexes": [1]}
    else:
        config, model, video, processor = (
            hf.Qwen3VLConfig,
            hf.Qwen3VLForConditionalGeneration,
            hf.Qwen3VLVideoProcessor,
            hf.Qwen3VLProcessor,
        )
        text |= {"rope_parameters": rope | {"mrope_interleaved": True}, "head_dim": 16}
        vision |= {"patch_size": 16, "num_position_embeddings": 64, "deepstack_visual_indexes": [0]}
    settings = config(
        text_config=text,
        vision_config=vision,
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=True,
    )
    grid = {"patch_size": vision["patch_size"], "temporal_patch_size": 2, "merge_size": 2}
    made = processor(
        image_processor=hf.Qwen2VLImageProcessor(
            **grid, size={"shortest_edge": 56 * 56, "longest_edge": 112 * 112}
        ),
        tokenizer=words,
        video_processor=video(**grid, size={"shortest_edge": 56 * 56 * 4, "longest_edge": 112 * 112 * 64}),
        chat_template=QWEN_TEMPLATE,
    )
    return _save(model(settings), made, folder, ids["<|im_end|>"])


def smolvlm(folder):
    import transformers as hf

    words = tokenizer(SMOL_SPECIAL, eos_token="<end_of_utterance>")
    words.fake_image_token, words.image_token, words.end_of_utterance_token = (
        "<fake_token_around_image>",
        "<image>",
        "<end_of_utterance>",
    )
    end = words.convert_tokens_to_ids("<end_of_utterance>")
    settings = hf.SmolVLMConfig(
        vision_config={
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "image_size": 64,
            "patch_size": 16,
        },
        text_config={
            "model_type": "llama",
            "vocab_size": len(words),
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "pad_token_id": 0,
            "eos_token_id": end,
            "bos_token_id": 1,
            "max_position_embeddings": 8192,
        },
        image_token_id=words.convert_tokens_to_ids("<image>"),
        scale_factor=2,
        pad_token_id=0,
    )
    size = {"size": {"longest_edge": 64}, "max_image_size": {"longest_edge": 64}}
    made = hf.SmolVLMProcessor(
        image_processor=hf.SmolVLMImageProcessor(do_image_splitting=False, **size),
        tokenizer=words,
        video_processor=hf.SmolVLMVideoProcessor(**size, num_frames=8, fps=1),
        image_seq_len=4,
        chat_template=SMOL_TEMPLATE,
    )
    return _save(hf.SmolVLMForConditionalGeneration(settings), made, folder, end)


def internvl(folder):
    import transformers as hf

    words = tokenizer(
        INTERN_SPECIAL,
        eos_token="<|im_end|>",
        extra_special_tokens={
            "start_image_token": "<img>",
            "end_image_token": "</img>",
            "context_image_token": "<IMG_CONTEXT>",
            "video_token": "<video>",
        },
    )
    end = words.convert_tokens_to_ids("<|im_end|>")
    settings = hf.InternVLConfig(
        vision_config={
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "image_size": 56,
            "patch_size": 14,
        },
        text_config={
            "model_type": "qwen2",
            "vocab_size": len(words),
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 8192,
            "pad_token_id": 0,
            "eos_token_id": end,
            "bos_token_id": None,
        },
        image_token_id=words.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=4,
        downsample_ratio=0.5,
    )
    size = {"height": 56, "width": 56}
    made = hf.InternVLProcessor(
        image_processor=hf.GotOcr2ImageProcessor(size=size, crop_to_patches=True, max_patches=4),
        tokenizer=words,
        video_processor=hf.InternVLVideoProcessor(size=size),
        image_seq_length=4,
        chat_template=INTERN_TEMPLATE,
    )
    return _save(hf.InternVLForConditionalGeneration(settings), made, folder, end)


def _save(model, processor, folder, end):
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = end, 0
    model.eval().save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
