"""The transformers for training: small, with rope in real numbers, latents as tokens, and the time shift."""

import math

import torch
from diffusers import QwenImageTransformer2DModel
from torch.nn import functional as F

import world
from common import CONFIG

SIDE = world.SIZE // 16  # patches of two by two latents along a side
FRAMES = {"layered": 1 + 1 + world.OBJECTS, "edit": 1}
# The pipelines' time shift at 128x128: sqrt(64 / 256) for Layered, the scheduler's line at 64 tokens for Edit.
SHIFT = {"layered": math.sqrt(SIDE * SIDE / 256), "edit": 0.5 + (SIDE * SIDE - 256) * 0.4 / (8192 - 256)}


def build(kind: str) -> QwenImageTransformer2DModel:
    size, layered = CONFIG["transformer"][kind], kind == "layered"
    model = QwenImageTransformer2DModel(
        num_layers=size["blocks"], attention_head_dim=sum(size["axes"]), num_attention_heads=size["heads"],
        joint_attention_dim=CONFIG["text"]["hidden"], axes_dims_rope=tuple(size["axes"]),
        use_additional_t_cond=layered, use_layer3d_rope=layered,
    )  # fmt: skip
    # Blocks start as identities: all gates are closed, and the prediction is 0.
    zeros = [model.proj_out.weight, model.proj_out.bias]
    for block in model.transformer_blocks:
        for linear in (block.img_mod[1], block.txt_mod[1]):
            zeros += [linear.weight, linear.bias]
    for tensor in zeros:
        torch.nn.init.zeros_(tensor)
    return model


class Attend:
    """diffusers' joint attention with rope in real numbers, which the compiler can fuse."""

    def __call__(self, attn, hidden_states, encoder_hidden_states, encoder_hidden_states_mask, image_rotary_emb,
                 attention_mask=None):  # fmt: skip
        head = attn.inner_dim // attn.heads

        def heads(to_q, to_k, to_v, norm_q, norm_k, x, rope):
            q, k, v = (to(x).unflatten(-1, (-1, head)).transpose(1, 2) for to in (to_q, to_k, to_v))
            return rotate(norm_q(q), *rope), rotate(norm_k(k), *rope), v

        picture, prompt = image_rotary_emb  # (t, d / 2) and (b, 1, p, d / 2), each a cosine and a sine
        image = heads(attn.to_q, attn.to_k, attn.to_v, attn.norm_q, attn.norm_k, hidden_states, picture)
        txt = heads(attn.add_q_proj, attn.add_k_proj, attn.add_v_proj, attn.norm_added_q, attn.norm_added_k,
                    encoder_hidden_states, prompt)  # fmt: skip
        q, k, v = (torch.cat([a, b.to(a.dtype)], dim=2) for a, b in zip(txt, image))
        v = v.to(q.dtype)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=encoder_hidden_states_mask).transpose(1, 2).flatten(2)
        split = encoder_hidden_states.shape[1]
        return attn.to_out[0](out[:, split:]), attn.to_add_out(out[:, :split])


def rotate(x, cos, sin):
    """Rope of the pairs' form: neighbors in the last axis are one complex number."""
    real, imaginary = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack([real * cos - imaginary * sin, real * sin + imaginary * cos], dim=-1).flatten(-2).to(x.dtype)


class Denoiser(torch.nn.Module):
    """The transformer's forward without its host-side work: rope tables are made once."""

    def __init__(self, kind: str, model: QwenImageTransformer2DModel, device):
        super().__init__()
        self.kind, self.model = kind, model
        model.set_attn_processor(Attend())
        # One table for each number of frames: where the prompt's positions begin depends on it.
        room = CONFIG["transformer"][kind]["prompt_tokens"]
        tables = [model.pos_embed([[(1, SIDE, SIDE)] * (frames + 1)], max_txt_seq_len=room, device=device)
                  for frames in range(1, FRAMES[kind] + 1)]  # fmt: skip
        prompts = torch.stack([prompt for _, prompt in tables])
        self.rope = tuple((table.real.contiguous(), table.imag.contiguous()) for table in (tables[-1][0], prompts))
        frame = torch.arange(FRAMES[kind] + 1, device=device).repeat_interleave(SIDE * SIDE)
        self.frame = torch.where(frame == FRAMES[kind], 0, frame)  # the condition is always there

    def used(self, frames: torch.Tensor) -> torch.Tensor:
        """Which picture tokens a sample of `frames` (b,) frames has: (b, t) bool."""
        return self.frame < frames[:, None]

    def forward(self, tokens, prompt, mask, frames, sigma):
        """Noisy frames and the condition (b, t, 64), states (b, p, hidden), mask (b, p), how many of the frames are
        there (b,), sigma (b,) -> (b, t, 64)."""
        model = self.model
        picture, prompts = self.rope
        rope = picture, tuple(table[frames - 1].unsqueeze(1) for table in prompts)
        mask = torch.cat([mask, self.used(frames)], dim=1)[:, None, None]
        x, states = model.img_in(tokens), model.txt_in(model.txt_norm(prompt))
        flag = torch.zeros(len(x), dtype=torch.long, device=x.device) if self.kind == "layered" else None
        time_ = model.time_text_embed(sigma, x, flag)
        for block in model.transformer_blocks:
            states, x = block(hidden_states=x, encoder_hidden_states=states, encoder_hidden_states_mask=mask,
                              temb=time_, image_rotary_emb=rope)  # fmt: skip
        return model.proj_out(model.norm_out(x, time_))


def pack(latents: torch.Tensor) -> torch.Tensor:
    """(b, frames, 16, 2h, 2w) -> (b, frames * h * w, 64)."""
    b, f, c, h, w = latents.shape
    return latents.view(b, f, c, h // 2, 2, w // 2, 2).permute(0, 1, 3, 5, 2, 4, 6).reshape(b, f * h * w // 4, c * 4)


def unpack(tokens: torch.Tensor, frames: int) -> torch.Tensor:
    x = tokens.view(len(tokens), frames, SIDE, SIDE, 16, 2, 2).permute(0, 1, 4, 2, 5, 3, 6)
    return x.reshape(len(tokens), frames, 16, 2 * SIDE, 2 * SIDE)


def shifted(u: torch.Tensor, kind: str) -> torch.Tensor:
    """The scheduler's exponential time shift."""
    factor = math.exp(SHIFT[kind])
    return factor * u / (1 + (factor - 1) * u)
