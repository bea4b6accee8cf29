"""Trains one part of the small checkpoints for a given time, or exports what is trained.

    python train.py vae-layered|vae-edit|text|layered|edit --state DIR --seconds S
    python train.py export --state DIR --models DIR    writes layered-nano and edit-nano
    python train.py import --state DIR --models DIR    a state to go on from, out of those two

The order: the VAEs and the text encoder (side by side), then the transformers (side by side). Every stage goes on from
its files in the state folder. See README.md.
"""

import argparse
from pathlib import Path

import torch
from common import device_of

STAGES = ["vae-layered", "vae-edit", "text", "layered", "edit", "export", "import"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=STAGES)
    parser.add_argument("--state", type=Path, required=True, help="folder of the weights between runs, and of the logs")
    parser.add_argument("--seconds", type=float, default=300, help="how long to train")
    parser.add_argument("--device", help="cpu or cuda; cuda if there is one")
    parser.add_argument("--decoder", action="store_true", help="VAE stages: train the decoder alone, latents stay")
    parser.add_argument("--hold", action="store_true", help="text encoder, transformers: keep the learning rate for a later run")
    parser.add_argument("--smoke", action="store_true", help="20 tiny steps, to see that it runs")
    parser.add_argument("--models", type=Path, help="export, import: the folder of layered-nano and edit-nano")
    chosen = parser.parse_args()
    device = device_of(chosen.device)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    if chosen.stage in ("export", "import"):
        import export

        folder = chosen.models or parser.error(f"{chosen.stage} needs --models")
        move = export.write if chosen.stage == "export" else export.read
        move(chosen.state, folder)
    elif chosen.stage.startswith("vae-"):
        import vae

        kind = chosen.stage.removeprefix("vae-")
        vae.train(kind, chosen.state, chosen.seconds, device, chosen.smoke, chosen.decoder)
    elif chosen.stage == "text":
        import text

        text.train(chosen.state, chosen.seconds, device, chosen.smoke, chosen.hold)
    else:
        import flow

        flow.train(chosen.stage, chosen.state, chosen.seconds, device, chosen.smoke, chosen.hold)


if __name__ == "__main__":
    main()
