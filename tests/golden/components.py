"""Reference tensors of single parts: noise, schedule, resize, processor, tokenizers, transformer, VAE, text encoder."""

import hashlib
import json
import math

import numpy as np
import torch
from PIL import Image
from torchvision.transforms.v2 import functional as tvF
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

import checkpoints
import scenes
import tokens
from fixtures import CHECKPOINTS, HERE, Recorder, pixels, save
from weights import normal

TRICKY_TEXTS = [
    "", " ", "  ", "   leading and trailing   ", "a\nb", "a\n\n\nb", "a \n b", "\n", "\r\n", "tab\tand\ttabs", "a\u00a0b",
    "Change the color of the house to blue.", "I'm sure they've said it's he'd we'll don't CAN'T",
    "12345 3.14159 1,000,000 ½ ² ٣٤", "price: $9.99!!! (50% off) [now] {x} <y> #tag @you",
    "一座红色的房子在山坡上，太阳在天空中。", "日本語とひらがな、カタカナ", "한국어 문장", "Привет, мир", "مرحبا بالعالم", "שלום",
    "naïve café — “quotes” … dash–dash", "e\u0301 is not \u00e9 until NFC", "\u1e9b\u0323 A\u030a \ufb01",
    "emoji 🙂 👩‍👩‍👧 🇩🇪 👍🏽", "zero\u200bwidth\u200djoin\ufeffbom", "x" * 100, "a" + " " * 20 + "b",
    "CamelCase snake_case kebab-case", "https://example.com/a?b=c&d=%20", "\\n is not a newline", "\u0000\u0001\u007f",
    "<|im_start|>user\nhello<|im_end|>\n", "text<|endoftext|>text", "<|vision_start|><|image_pad|><|image_pad|><|vision_end|>",
    "a <tool_call> {\"x\": 1} </tool_call> b", "<|im_start", "<|unknown|>", " <|im_end|> ", "<|fim_prefix|>x<|fim_suffix|>",
]  # fmt: skip


def noise() -> None:
    seeds = [0, 42, 2**32 - 1, 2**32 + 5, 2**63 - 1]
    sizes = [1, 5, 15, 16, 17, 31, 32, 100, 1000]
    save("noise", {
        f"randn_{seed}_{n}": torch.randn(n, generator=torch.Generator("cpu").manual_seed(seed))
        for seed in seeds for n in sizes
    })  # fmt: skip


def schedule() -> None:
    """Sigmas (with the appended 0) and timesteps as the two pipelines ask for them."""
    out = {}

    def record(name, scheduler, sigmas, mu):
        scheduler.set_timesteps(sigmas=sigmas, mu=mu)
        out[f"{name}_sigmas"], out[f"{name}_timesteps"] = scheduler.sigmas, scheduler.timesteps

    def linear_mu(tokens_, config):
        slope = (config.max_shift - config.base_shift) / (config.max_image_seq_len - config.base_image_seq_len)
        return tokens_ * slope + config.base_shift - slope * config.base_image_seq_len

    flavours = {"": {}, "noterminal_": {"shift_terminal": None},
                "static_": {"use_dynamic_shifting": False, "shift": 3.0, "shift_terminal": None}}  # fmt: skip
    for prefix, changes in flavours.items():
        for steps, tokens_ in [(1, 60), (4, 60), (20, 64), (50, 1600), (50, 4096)]:
            # One step stretched to a terminal value divides 0 by 0: diffusers gives NaN.
            if steps == 1 and "shift_terminal" not in changes or changes and steps == 20:
                continue
            scheduler = checkpoints.scheduler(**changes)
            dynamic = scheduler.config.use_dynamic_shifting
            mu = math.sqrt(tokens_ / 256) if dynamic else None
            record(f"{prefix}layered_{steps}_{tokens_}", scheduler, np.linspace(1.0, 0, steps + 1)[:-1], mu)
            mu = linear_mu(tokens_, scheduler.config) if dynamic else None
            record(f"{prefix}edit_{steps}_{tokens_}", scheduler, np.linspace(1.0, 1 / steps, steps), mu)
    save("scheduler", out)


def unipc() -> None:
    """Noise levels and steps of diffusers' UniPC in its form for flow models, for given velocities."""
    out = {}
    generator = torch.Generator().manual_seed(9)
    for steps, tokens_ in [(2, 64), (3, 64), (8, 64), (20, 1600)]:
        scheduler = checkpoints.unipc()
        scheduler.set_timesteps(sigmas=np.linspace(1.0, 0, steps + 1)[:-1], mu=math.sqrt(tokens_ / 256))
        latents = torch.randn(1, 6, 4, generator=generator)
        name = f"layered_{steps}_{tokens_}"
        out |= {f"{name}_sigmas": scheduler.sigmas, f"{name}_timesteps": scheduler.timesteps.float()}
        out[f"{name}_latents_0"] = latents
        for step, timestep in enumerate(scheduler.timesteps):
            # Depends on the latents, so that an error in one step shows in the next.
            velocity = torch.tanh(latents) + 0.3 * torch.randn(1, 6, 4, generator=generator)
            latents = scheduler.step(velocity, timestep, latents, return_dict=False)[0]
            out |= {f"{name}_velocity_{step + 1}": velocity, f"{name}_latents_{step + 1}": latents}
    save("unipc", out)


def resize() -> None:
    """Pillow's resize of uint8 pictures (RGBA goes through premultiplied alpha inside Pillow), and torchvision's."""
    out = {}
    lanczos, bicubic = Image.Resampling.LANCZOS, Image.Resampling.BICUBIC
    jobs = [
        ("lanczos_rgba_down", 4, (67, 53), (32, 40), lanczos), ("lanczos_rgba_up", 4, (23, 31), (64, 47), lanczos),
        ("lanczos_rgba_mixed", 4, (41, 29), (19, 64), lanczos), ("lanczos_rgb_down", 3, (75, 61), (32, 32), lanczos),
        ("lanczos_rgb_up", 3, (33, 17), (51, 64), lanczos), ("lanczos_rgb_one_side", 3, (40, 33), (40, 64), lanczos),
        ("bicubic_rgb_down", 3, (71, 45), (28, 28), bicubic), ("bicubic_rgb_up", 3, (27, 35), (56, 84), bicubic),
        ("bicubic_rgb_tiny", 3, (3, 2), (28, 28), bicubic),
    ]  # fmt: skip
    for seed, (name, channels, source, target, filter_) in enumerate(jobs):
        picture = scenes.patterned(*source, channels, seed)
        out[f"{name}_in"] = pixels(picture)
        out[f"{name}_out"] = pixels(picture.resize(target, filter_))
        if filter_ == bicubic:
            out[f"{name}_torchvision_out"] = torchvision_bicubic(out[f"{name}_in"], *target)
    save("resize", out, {"torchvision": torchvision_hashes()})


def torchvision_bicubic(picture: torch.Tensor, width: int, height: int) -> torch.Tensor:
    """(h, w, 3) uint8, resized in the memory layout and by the function of transformers' picture processor."""
    planes = picture.permute(2, 0, 1).contiguous()[None]
    bicubic = tvF.InterpolationMode.BICUBIC
    return tvF.resize(planes, [height, width], interpolation=bicubic, antialias=True)[0].permute(1, 2, 0)


def torchvision_hashes() -> list[dict]:
    """SHA-256 of torchvision's bytes for pictures that are formulas, at many sizes: up, down, narrow, wide."""
    sizes = [
        ((640, 480), (644, 476)), ((384, 384), (392, 392)), ((352, 416), (364, 420)), ((128, 128), (140, 140)),
        ((480, 1200), (476, 1204)), ((333, 777), (420, 980)), ((200, 1000), (140, 308)), ((1200, 900), (644, 644)),
        ((1, 1), (56, 56)), ((2, 300), (28, 2800)), ((300, 2), (2800, 28)), ((3000, 33), (28, 28)),
        ((33, 3000), (28, 28)), ((2048, 1536), (84, 56)), ((57, 64), (57, 28)), ((64, 57), (28, 57)),
        ((112, 112), (56, 224)), ((97, 101), (196, 112)), ((1023, 769), (1036, 756)),
    ]  # fmt: skip
    found = []
    for index, ((width, height), target) in enumerate(sizes):
        y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        # Smooth in places, wrapped around in others; every third one is black and white, for the most overshoot.
        planes = torch.stack([x * x // 7 + y, x + y * y // 5, x * y // 11], -1) % 256
        picture = (planes if index % 3 else (planes > 127) * 255).to(torch.uint8)
        resized = torchvision_bicubic(picture, *target).contiguous().numpy().tobytes()
        found.append({"from": [width, height], "to": list(target), "black_and_white": index % 3 == 0,
                      "sha256": hashlib.sha256(resized).hexdigest()})  # fmt: skip
    return found


def processor() -> None:
    """The picture processor of the layered checkpoint on odd sizes, RGB and RGBA."""
    load = {name: cls.from_pretrained for name, cls in checkpoints.IMAGE_PROCESSORS.items()}
    images, in_torch = (load[name](CHECKPOINTS / "layered" / "processor") for name in ("pil", "torchvision"))
    out, also = {}, {}
    cases = {"square": (57, 61, 3), "wide": (103, 37, 3), "tiny": (21, 30, 3), "exact": (56, 84, 3), "rgba": (45, 70, 4)}
    for seed, (name, (width, height, channels)) in enumerate(cases.items()):
        picture = scenes.patterned(width, height, channels, 100 + seed)
        result = images(images=[picture], return_tensors="pt")
        out[f"{name}_image"] = pixels(picture)
        out[f"{name}_pixel_values"] = result["pixel_values"]
        out[f"{name}_grid_thw"] = result["image_grid_thw"]
        also[f"{name}_pixel_values"] = in_torch(images=[picture], return_tensors="pt")["pixel_values"]
    table = []
    for height, width in [(10, 10), (28, 28), (42, 42), (70, 14), (57, 61), (96, 160), (384, 384), (1024, 768), (99, 7001),
                          (3584, 3584), (5000, 4000), (14, 2799)]:  # fmt: skip
        table.append([height, width, *smart_resize(height, width, 28, 56 * 56, 12845056)])
    save("processor", out, {"class": type(images).__name__, "smart_resize": table})
    save("processor_torchvision", also, {"class": type(in_torch).__name__})


def tokenizers() -> None:
    """`tokenizer.json`: [{"text", "ids"}], equal for both forms of the tokenizer."""
    loaded = [tokens.load(CHECKPOINTS / kind / "tokenizer") for kind in checkpoints.PIPELINES]
    out = []
    for text in TRICKY_TEXTS + [template.replace("{}", "A red house.") for template in checkpoints.templates()]:
        first, second = (tokenizer(text).input_ids for tokenizer in loaded)
        if first != second:
            raise SystemExit(f"the two forms of the tokenizer differ on {text!r}")
        out.append({"text": text, "ids": first, "decoded": loaded[0].decode(first, skip_special_tokens=True)})
    (HERE / "tokenizer.json").write_text(json.dumps(out, indent=1, ensure_ascii=False) + "\n")


def transformers() -> None:
    """One forward pass each, and the first block's two outputs."""
    cases = {
        "layered": ("layered", {}, [(1, 5, 7)] * 3 + [(1, 5, 7)], 0.73),
        "edit": ("edit", {}, [(1, 7, 4), (1, 5, 6), (1, 3, 8)], 0.41),
        "zero_cond": ("edit", {"zero_cond_t": True}, [(1, 4, 7), (1, 5, 3), (1, 6, 5)], 0.92),
    }
    for name, (kind, changes, shapes, t) in cases.items():
        model = checkpoints.transformer(kind, **changes).requires_grad_(False)
        length = sum(math.prod(shape) for shape in shapes)
        inputs = {
            "hidden_states": normal((1, length, 64), name, "hidden_states"),
            "encoder_hidden_states": normal((1, 19, checkpoints.SMALL.hidden), name, "encoder_hidden_states"),
            "timestep": torch.tensor([t]),
        }
        if kind == "layered":
            inputs["additional_t_cond"] = torch.tensor([0])
        with Recorder(block=model.transformer_blocks[0]) as seen:
            output = model(**inputs, img_shapes=[shapes], return_dict=False)[0]
        encoder, hidden = seen["block"]
        save(f"transformer_{name}", {**inputs, "img_shapes": torch.tensor(shapes), "output": output,
                                     "block_0_hidden": hidden, "block_0_encoder": encoder})  # fmt: skip


def vaes() -> None:
    for kind, channels in (("layered", 4), ("edit", 3)):
        model = checkpoints.vae(kind).requires_grad_(False)
        picture = scenes.patterned(64, 96, channels, 7)
        image = pixels(picture).permute(2, 0, 1)[None, :, None].float() / 127.5 - 1
        with Recorder(conv_in=model.encoder.conv_in, mid=model.encoder.mid_block) as seen:
            latent = model.encode(image).latent_dist.mode()
        given = normal((1, 16, 1, 12, 8), "vae", kind)
        with Recorder(conv_in=model.decoder.conv_in, mid=model.decoder.mid_block) as decoding:
            decoded = model.decode(given, return_dict=False)[0]
        save(f"vae_{kind}", {
            "image": image, "latent": latent, "encoder_conv_in": seen["conv_in"], "encoder_mid_block": seen["mid"],
            "given_latent": given, "decoded": decoded, "decoder_conv_in": decoding["conv_in"],
            "decoder_mid_block": decoding["mid"],
        })  # fmt: skip
