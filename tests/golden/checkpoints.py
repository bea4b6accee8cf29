"""Builds the small checkpoints: the real architecture, random weights, the folder layout of the published ones."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKLQwenImage,
    FlowMatchEulerDiscreteScheduler,
    QwenImageEditPlusPipeline,
    QwenImageLayeredPipeline,
    QwenImageTransformer2DModel,
    UniPCMultistepScheduler,
)
from safetensors.torch import load_file, save_file
from transformers import (
    GenerationConfig,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
)
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

import tokens
from weights import fill, normal

# The processor requires a video processor, which pictures do not need.
Qwen2VLProcessor.check_argument_for_proper_class = lambda *args, **kwargs: None

PARTS = ["scheduler", "vae", "text_encoder", "tokenizer", "processor", "transformer"]
PIPELINES = {"layered": QwenImageLayeredPipeline, "edit": QwenImageEditPlusPipeline}
# By transformers' names of the backends. With torchvision installed, `from_pretrained` takes the first.
IMAGE_PROCESSORS = {"torchvision": Qwen2VLImageProcessor, "pil": Qwen2VLImageProcessorPil}


@dataclass(frozen=True)
class Size:
    """The sizes that are smaller in a small checkpoint."""

    blocks: int = 3
    heads: int = 3
    rope_axes: tuple[int, int, int] = (4, 10, 10)
    vae_base: int = 6
    hidden: int = 64
    text_layers: int = 3
    text_heads: tuple[int, int] = (4, 2)
    text_inner: int = 96
    mrope: tuple[int, int, int] = (2, 3, 3)
    vision_hidden: int = 32
    vision_heads: int = 2
    vision_inner: int = 48


SMALL = Size()

# The factors of a part's weights, tuned until every path affects the picture: see sensitivity.json.
TRANSFORMER_GAINS = [
    (r"norm_added_[qk]\.weight", 2.0),
    (r"norm_[qk]\.weight", 2.5),
    (r"attn\.(to_v|to_out)", 2.0),
    (r"_mod\.1\.weight", 1.5),
]
TEXT_GAINS = [(r"[qk]_proj\.weight", 2.0), (r"qkv\.weight", 1.5), (r"lm_head", 2.0)]
VAE_GAINS = [(r"encoder\.conv_out\.weight", 3.0), (r"decoder\.conv_out", 0.5), (r"bias", 0.5)]

# The published latent statistics differ per channel and are not 0 and 1; neither are these.
LATENTS_MEAN = [round(float(value) * 0.4, 4) for value in normal((16,), "latents_mean")]
LATENTS_STD = [round(1.2 + 0.4 * float(value.tanh()), 4) for value in normal((16,), "latents_std")]


def templates() -> list[str]:
    """Every prompt template of the two pipelines, read from them."""
    empty = [cls(**dict.fromkeys(PARTS)) for cls in PIPELINES.values()]
    return [text for pipe in empty for _, text in sorted(vars(pipe).items()) if isinstance(text, str) and "{}" in text
            or isinstance(text, str) and "<|image_pad|>" in text]  # fmt: skip


def scheduler(**changes) -> FlowMatchEulerDiscreteScheduler:
    """Qwen-Image's published scheduler."""
    settings = {
        "base_image_seq_len": 256, "base_shift": 0.5, "invert_sigmas": False, "max_image_seq_len": 8192,
        "max_shift": 0.9, "num_train_timesteps": 1000, "shift": 1.0, "shift_terminal": 0.02,
        "stochastic_sampling": False, "time_shift_type": "exponential", "use_beta_sigmas": False,
        "use_dynamic_shifting": True, "use_exponential_sigmas": False, "use_karras_sigmas": False,
    }  # fmt: skip
    return FlowMatchEulerDiscreteScheduler(**{**settings, **changes})


def unipc() -> UniPCMultistepScheduler:
    """UniPC with the published scheduler's noise levels."""
    return UniPCMultistepScheduler.from_config(scheduler().config, use_flow_sigmas=True, prediction_type="flow_prediction")


def transformer(kind: str, size: Size = SMALL, **changes) -> QwenImageTransformer2DModel:
    layered = kind == "layered"
    model = QwenImageTransformer2DModel(
        num_layers=size.blocks, attention_head_dim=sum(size.rope_axes), num_attention_heads=size.heads,
        joint_attention_dim=size.hidden, axes_dims_rope=size.rope_axes,
        **{"use_additional_t_cond": layered, "use_layer3d_rope": layered, **changes},
    )  # fmt: skip
    return fill(model, f"transformer-{kind}", TRANSFORMER_GAINS)


def vae(kind: str, size: Size = SMALL) -> AutoencoderKLQwenImage:
    model = AutoencoderKLQwenImage(
        base_dim=size.vae_base, input_channels=4 if kind == "layered" else 3,
        latents_mean=LATENTS_MEAN, latents_std=LATENTS_STD,
    )  # fmt: skip
    return fill(model, f"vae-{kind}", VAE_GAINS)


def text_encoder(kind: str, size: Size = SMALL) -> Qwen2_5_VLForConditionalGeneration:
    ids = tokens.ADDED
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": tokens.VOCABULARY, "hidden_size": size.hidden, "intermediate_size": size.text_inner,
            "num_hidden_layers": size.text_layers, "num_attention_heads": size.text_heads[0],
            "num_key_value_heads": size.text_heads[1], "rms_norm_eps": 1e-6, "max_position_embeddings": 4096,
            "max_window_layers": size.text_layers, "sliding_window": 4096,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": list(size.mrope)},
            "bos_token_id": ids["<|endoftext|>"], "eos_token_id": ids["<|im_end|>"],
        },
        vision_config={
            "depth": 4, "hidden_size": size.vision_hidden, "num_heads": size.vision_heads,
            "intermediate_size": size.vision_inner, "out_hidden_size": size.hidden, "window_size": 112,
            "fullatt_block_indexes": [1, 3], "tokens_per_second": 2,
        },
        image_token_id=ids["<|image_pad|>"], video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"], vision_end_token_id=ids["<|vision_end|>"],
    )  # fmt: skip
    model = fill(Qwen2_5_VLForConditionalGeneration(config), f"text-{kind}", TEXT_GAINS)
    model.generation_config = GenerationConfig(
        bos_token_id=ids["<|endoftext|>"], pad_token_id=ids["<|endoftext|>"],
        eos_token_id=[ids["<|im_end|>"], ids["<|endoftext|>"]], do_sample=True, repetition_penalty=1.05,
        temperature=1e-6, top_k=1, top_p=0.001,
    )  # fmt: skip
    return model


def write(kind: str, folder: Path, size: Size, acetate: dict, shards: dict[str, str]) -> None:
    """Writes a whole checkpoint in bfloat16. `shards` gives a part's largest shard, for instance {"vae": "1MB"}."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    vocabulary, merges = tokens.train(templates())
    models = {"transformer": transformer(kind, size), "vae": vae(kind, size), "text_encoder": text_encoder(kind, size)}
    for name, model in models.items():
        limit = {"max_shard_size": shards[name]} if name in shards else {}
        model.to(torch.bfloat16).save_pretrained(folder / name, **limit)
    scheduler().save_pretrained(folder / "scheduler")

    tokens.write_slow(folder / "tokenizer", vocabulary, merges)
    tokenizer = tokens.load(folder / "tokenizer")
    images = Qwen2VLImageProcessorPil(size={"shortest_edge": 56 * 56, "longest_edge": 12845056})
    images.save_pretrained(folder / "processor")
    tokenizer.save_pretrained(folder / "processor")
    if kind == "layered":
        shutil.rmtree(folder / "tokenizer")
        tokenizer.save_pretrained(folder / "tokenizer")
    else:
        publish_as_before(folder / "text_encoder")

    tokens.write_json(folder / "model_index.json", {
        "_class_name": PIPELINES[kind].__name__,
        "_diffusers_version": "0.42.1",
        "processor": ["transformers", "Qwen2VLProcessor"],
        "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
        "text_encoder": ["transformers", "Qwen2_5_VLForConditionalGeneration"],
        "tokenizer": ["transformers", "Qwen2Tokenizer"],
        "transformer": ["diffusers", "QwenImageTransformer2DModel"],
        "vae": ["diffusers", "AutoencoderKLQwenImage"],
    })  # fmt: skip
    tokens.write_json(folder / "acetate.json", acetate)


def publish_as_before(folder: Path) -> None:
    """Rewrites a text encoder as older transformers wrote it: other tensor names, two shards, a flat config."""
    config = json.loads((folder / "config.json").read_text())
    text = config.pop("text_config")
    rope = text.pop("rope_parameters")
    text = {key: value for key, value in text.items() if key not in ("layer_types", "model_type", "dtype")}
    dtype = config.pop("dtype")
    config = {**text, **config, "rope_theta": rope["rope_theta"],
              "rope_scaling": {"mrope_section": rope["mrope_section"], "rope_type": "default", "type": "default"},
              "torch_dtype": dtype, "transformers_version": "4.53.1"}  # fmt: skip
    vision = config["vision_config"]
    vision.pop("rope_parameters", None)
    vision |= {"in_chans": vision.pop("in_channels"), "spatial_patch_size": vision["patch_size"]}
    tokens.write_json(folder / "config.json", dict(sorted(config.items())))

    path = folder / "model.safetensors"
    renames = [("model.language_model.", "model."), ("model.visual.", "visual.")]
    tensors = {}
    for name, tensor in sorted(load_file(path).items()):
        for new, old in renames:
            if name.startswith(new):
                name = old + name.removeprefix(new)
                break
        tensors[name] = tensor
    path.unlink()
    halves = [{n: t for n, t in tensors.items() if n.startswith("visual.") == seen} for seen in (False, True)]
    index = {}
    for number, half in enumerate(halves, 1):
        file = f"model-{number:05}-of-{len(halves):05}.safetensors"
        save_file(half, folder / file, metadata={"format": "pt"})
        index |= dict.fromkeys(half, file)
    total = sum(tensor.nbytes for tensor in tensors.values())
    tokens.write_json(folder / "model.safetensors.index.json",
                      {"metadata": {"total_size": total}, "weight_map": dict(sorted(index.items()))})  # fmt: skip


def load(kind: str, folder: Path, image_processor: str):
    """The diffusers pipeline of a checkpoint, in float32. Parts are loaded by hand, to choose the picture processor."""
    as_f32 = {"torch_dtype": torch.float32}
    tokenizer = tokens.load(folder / "tokenizer")
    images = IMAGE_PROCESSORS[image_processor].from_pretrained(folder / "processor")
    pipe = PIPELINES[kind](
        scheduler=FlowMatchEulerDiscreteScheduler.from_pretrained(folder / "scheduler"),
        vae=AutoencoderKLQwenImage.from_pretrained(folder / "vae", **as_f32),
        text_encoder=Qwen2_5_VLForConditionalGeneration.from_pretrained(folder / "text_encoder", dtype=torch.float32),
        tokenizer=tokenizer,
        processor=Qwen2VLProcessor(images, tokenizer, None),
        transformer=QwenImageTransformer2DModel.from_pretrained(folder / "transformer", **as_f32),
    )
    for part in (pipe.vae, pipe.text_encoder, pipe.transformer):
        part.eval().requires_grad_(False)
    pipe.set_progress_bar_config(disable=True)
    return pipe
