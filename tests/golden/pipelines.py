"""Runs the two diffusers pipelines on the small checkpoints and keeps what they see on the way."""

from dataclasses import dataclass, field

import torch
from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit_plus as edit_plus
from PIL import Image

import checkpoints
from fixtures import CHECKPOINTS

STEPS, CFG, SEED, NEGATIVE = 4, 4.0, 7, " "
RESOLUTION, LAYERS, CAPTION_TOKENS = 128, 3, 24
CONDITION_AREA, VAE_AREA = 12544, 16384
edit_plus.CONDITION_IMAGE_SIZE, edit_plus.VAE_IMAGE_SIZE = CONDITION_AREA, VAE_AREA


@dataclass
class Result:
    """Pictures (for decompose: the composite, then the layers) and tensors of one run."""

    pictures: list[Image.Image]
    tensors: dict[str, torch.Tensor] = field(default_factory=dict)
    caption: str | None = None
    caption_ids: list[int] = field(default_factory=list)


class Watch:
    """Records latents, the first two predictions, prompt embeddings and captions of one pipeline call."""

    def __init__(self, pipe):
        self.pipe, self.tensors, self.predictions, self.embeds = pipe, {}, [], []
        self.caption, self.caption_ids = None, []

    def __enter__(self):
        pipe = self.pipe
        self.hook = pipe.transformer.register_forward_hook(lambda _m, _i, out: self.predictions.append(out[0]))
        self.wrapped = {name: getattr(pipe, name) for name in ("prepare_latents", "encode_prompt")}

        def prepare_latents(*args, **kwargs):
            latents, image_latents = self.wrapped["prepare_latents"](*args, **kwargs)
            self.tensors |= {"noise": latents, "image_latents": image_latents}
            return latents, image_latents

        def encode_prompt(*args, **kwargs):
            embeds = self.wrapped["encode_prompt"](*args, **kwargs)
            self.embeds.append(embeds[0])
            return embeds

        pipe.prepare_latents, pipe.encode_prompt = prepare_latents, encode_prompt
        if isinstance(pipe, checkpoints.QwenImageLayeredPipeline):
            self.watch_captions(pipe)
        return self

    def watch_captions(self, pipe):
        self.wrapped["get_image_caption"] = pipe.get_image_caption
        generate = pipe.text_encoder.generate

        def shorter(**inputs):
            ids = generate(**{**inputs, "max_new_tokens": CAPTION_TOKENS})
            self.caption_ids = ids[0, inputs["input_ids"].shape[1] :].tolist()
            return ids

        def get_image_caption(*args, **kwargs):
            pipe.text_encoder.generate = shorter
            try:
                self.caption = self.wrapped["get_image_caption"](*args, **kwargs)
            finally:
                del pipe.text_encoder.generate
            return self.caption

        pipe.get_image_caption = get_image_caption

    def __exit__(self, *_):
        self.hook.remove()
        for name in self.wrapped:
            delattr(self.pipe, name)

    def step(self, _pipe, index, _timestep, values):
        self.tensors[f"latents_{index + 1}"] = values["latents"]
        return {}

    def finish(self) -> dict[str, torch.Tensor]:
        length = self.tensors["noise"].shape[1]
        names = ("positive", "negative")
        self.tensors |= {f"embeds_{name}": embeds for name, embeds in zip(names, self.embeds)}
        self.tensors |= {f"prediction_1_{name}": out[:, :length] for name, out in zip(names, self.predictions)}
        self.tensors |= {"sigmas": self.pipe.scheduler.sigmas, "timesteps": self.pipe.scheduler.timesteps}
        return self.tensors


def resized(pipe, picture: Image.Image) -> Image.Image:
    """The picture as the layered pipeline captions it."""
    width, height = edit_plus.calculate_dimensions(RESOLUTION**2, picture.width / picture.height)
    return pipe.image_processor.resize(picture.convert("RGBA"), height, width)


def decode_frames(pipe, latents: torch.Tensor, height: int, width: int, layers: int) -> list[Image.Image]:
    """All frames of packed latents as pictures. The pipeline itself throws frame 0, the composite, away."""
    frames = pipe._unpack_latents(latents, height, width, layers, pipe.vae_scale_factor)
    mean, std = (torch.tensor(values).view(1, -1, 1, 1, 1) for values in (pipe.vae.config.latents_mean, pipe.vae.config.latents_std))
    frames = frames / (1.0 / std) + mean
    batch, channels, count, h, w = frames.shape
    frames = frames.permute(0, 2, 1, 3, 4).reshape(-1, channels, 1, h, w)
    pictures = pipe.vae.decode(frames, return_dict=False)[0].squeeze(2)
    return pipe.image_processor.postprocess(pictures, output_type="pil")


def decompose(pipe, picture: Image.Image, prompt: str, **changes) -> Result:
    """`changes` overrides arguments of the pipeline's call, and `seed`."""
    changes = dict(changes)
    seed = changes.pop("seed", SEED)
    arguments = {
        "negative_prompt": NEGATIVE, "true_cfg_scale": CFG, "num_inference_steps": STEPS, "layers": LAYERS,
        "resolution": RESOLUTION, "cfg_normalize": True, "use_en_prompt": True,
    } | changes  # fmt: skip
    picture = picture.convert("RGBA")
    with Watch(pipe) as watch:
        out = pipe(picture, prompt, generator=torch.Generator("cpu").manual_seed(seed),
                   callback_on_step_end=watch.step, **arguments).images[0]  # fmt: skip
        tensors = watch.finish()
    width, height = out[0].size
    frames = decode_frames(pipe, tensors[f"latents_{arguments['num_inference_steps']}"], height, width, arguments["layers"])
    if any(a.tobytes() != b.tobytes() for a, b in zip(frames[1:], out, strict=True)):
        raise SystemExit("frames decoded here are not those of the pipeline")
    return Result(frames, tensors, watch.caption, watch.caption_ids)


def edit(pipe, pictures: list[Image.Image], instruction: str, mrope: bool = True, **changes) -> Result:
    """With `mrope` the text encoder gets the token types that it needs for multimodal positions: see README.md."""
    changes = dict(changes)
    seed = changes.pop("seed", SEED)
    pictures = [picture.convert("RGB") for picture in pictures]
    width, height = pictures[-1].size
    width, height = edit_plus.calculate_dimensions(VAE_AREA, width / height)
    arguments = {
        "negative_prompt": NEGATIVE, "true_cfg_scale": CFG, "num_inference_steps": STEPS, "height": height,
        "width": width,
    } | changes  # fmt: skip
    with Watch(pipe) as watch, TokenTypes(pipe.text_encoder, mrope):
        out = pipe(pictures, instruction, generator=torch.Generator("cpu").manual_seed(seed),
                   callback_on_step_end=watch.step, **arguments).images  # fmt: skip
        return Result(out, watch.finish())


class TokenTypes:
    """Adds `mm_token_type_ids` to every call of a text encoder that brings pictures."""

    def __init__(self, text_encoder, on: bool):
        self.text_encoder, self.on = text_encoder, on

    def __enter__(self):
        def hook(module, args, kwargs):
            if kwargs.get("image_grid_thw") is not None:
                types = (kwargs["input_ids"] == module.config.image_token_id).int()
                return args, {**kwargs, "mm_token_type_ids": types}

        if self.on:
            self.handle = self.text_encoder.register_forward_pre_hook(hook, with_kwargs=True)

    def __exit__(self, *_):
        self.text_encoder.model.rope_deltas = None
        if self.on:
            self.handle.remove()


def load(name: str, image_processor: str = "torchvision"):
    """`layered`, `edit` or `edit-zero-cond` (edit's weights under its own config)."""
    if name != "edit-zero-cond":
        return checkpoints.load(name, CHECKPOINTS / name, image_processor)
    pipe = checkpoints.load("edit", CHECKPOINTS / "edit", image_processor)
    model = checkpoints.QwenImageTransformer2DModel.from_config(
        checkpoints.QwenImageTransformer2DModel.load_config(CHECKPOINTS / name / "transformer")
    )
    model.load_state_dict(pipe.transformer.state_dict())
    pipe.transformer = model.eval().requires_grad_(False)
    return pipe


