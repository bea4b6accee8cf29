"""diffusers' VAE with its 3-D convolutions folded to 2-D, for single pictures.

With one frame a causal 3x3x3 convolution sees zeros except in its last temporal tap, so it equals a 2-D one. The folded
modules keep their names, so only shapes change on the way back.
"""

import torch
from diffusers import AutoencoderKLQwenImage
from diffusers.models.autoencoders import autoencoder_kl_qwenimage as reference
from torch import nn
from torch.nn import functional as F


class Norm(nn.Module):
    """RMS norm over channels."""

    def __init__(self, channels: int):
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(channels, 1, 1))
        self.scale = channels**0.5

    def forward(self, x):
        return F.normalize(x.float(), dim=1).to(x.dtype) * (self.scale * self.gamma).to(x.dtype)


class Resample(nn.Module):
    def __init__(self, resample: nn.Sequential):
        super().__init__()
        self.resample = resample

    def forward(self, x, *_):
        return self.resample(x)


class Attention(nn.Module):
    """Single-head self-attention over the pixels of the middle block."""

    def __init__(self, old):
        super().__init__()
        self.norm, self.to_qkv, self.proj = Norm(old.dim), old.to_qkv, old.proj

    def forward(self, x):
        batch, channels, height, width = x.shape
        q, k, v = self.to_qkv(self.norm(x)).flatten(2).transpose(1, 2).chunk(3, dim=-1)
        out = F.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None])[:, 0]
        return x + self.proj(out.transpose(1, 2).reshape(batch, channels, height, width))


def fold_module(parent: nn.Module) -> None:
    for name, child in parent.named_children():
        if isinstance(child, reference.QwenImageCausalConv3d):
            size = child.kernel_size[-1]
            new = nn.Conv2d(child.in_channels, child.out_channels, size, padding=size // 2)
        elif isinstance(child, reference.QwenImageRMS_norm):
            new = Norm(child.gamma.numel())
        elif isinstance(child, reference.QwenImageResample):
            new = Resample(child.resample)
        elif isinstance(child, reference.QwenImageAttentionBlock):
            new = Attention(child)
        else:
            fold_module(child)
            continue
        setattr(parent, name, new)


def build(settings: dict) -> AutoencoderKLQwenImage:
    """A folded VAE. Convolutions start with the deviation that their used taps ask for."""
    vae = AutoencoderKLQwenImage(**settings)
    for half in (vae.encoder, vae.decoder, vae):
        fold_module(half)
    for module in vae.modules():
        if isinstance(module, nn.Conv2d):
            fan = module.in_channels * module.kernel_size[0] ** 2
            nn.init.normal_(module.weight, std=fan**-0.5)
            nn.init.zeros_(module.bias)
    # Residual branches start small, so that depth does not multiply the scale.
    for module in vae.modules():
        if isinstance(module, reference.QwenImageResidualBlock):
            nn.init.normal_(module.conv2.weight, std=0.1 * (module.conv2.in_channels * 9) ** -0.5)
        elif isinstance(module, Attention):
            nn.init.normal_(module.proj.weight, std=0.1 * module.proj.in_channels**-0.5)
    return vae.to(memory_format=torch.channels_last)


def encode(vae, pictures: torch.Tensor) -> torch.Tensor:
    """(b, c, h, w) in -1..1 -> the mode of the latents (b, 16, h / 8, w / 8), not normalized."""
    return vae.quant_conv(vae.encoder(pictures))[:, : vae.config.z_dim]


def decode(vae, latents: torch.Tensor) -> torch.Tensor:
    """Latents -> pictures about -1..1, not clamped."""
    return vae.decoder(vae.post_quant_conv(latents))


def unfold(weights: dict[str, torch.Tensor], settings: dict) -> AutoencoderKLQwenImage:
    """diffusers' own VAE with these weights; every tap that one frame never uses is zero."""
    vae = AutoencoderKLQwenImage(**settings)
    full = {}
    for name, old in vae.state_dict().items():
        new = weights.get(name)
        full[name] = torch.zeros_like(old)
        if new is None:
            if "time_conv" not in name:
                raise SystemExit(f"the folded VAE has no {name}")
        elif old.dim() == 5:
            full[name][:, :, -1] = new
        else:
            full[name] = new.reshape(old.shape)
    vae.load_state_dict(full)
    return vae.eval()
