"""Reference tensors of the text encoder: without a picture, with one and with two."""

import torch

import checkpoints
import scenes
from fixtures import CHECKPOINTS, Recorder, pixels, save

PROMPT = "A red house with a green tree on a hill, the sun is in the sky."
INSTRUCTION = "Change the color of the house to blue."


def hidden_states(model, inputs: dict) -> torch.Tensor:
    return model(**inputs, output_hidden_states=True).hidden_states[-1]


def text_layered() -> None:
    pipe = checkpoints.load("layered", CHECKPOINTS / "layered", "pil")
    out, notes = {}, {"prompts": {}}
    for name, prompt in {"prompt": PROMPT, "blank": " "}.items():
        text = pipe.prompt_template_encode.format(prompt)
        inputs = pipe.tokenizer([text], return_tensors="pt")
        out[f"{name}_input_ids"] = inputs.input_ids
        out[f"{name}_embeds"] = hidden_states(pipe.text_encoder, dict(inputs))
        notes["prompts"][name] = {"prompt": prompt, "text": text}
    out |= {"input_ids": out["prompt_input_ids"], "embeds": out["prompt_embeds"]}
    with Recorder(layer=pipe.text_encoder.model.language_model.layers[0]) as seen:
        pipe.text_encoder(input_ids=out["input_ids"])
    first = seen["layer"]
    out["layer_0"] = first[0] if isinstance(first, tuple) else first
    save("text_layered", out, notes)


def text_edit() -> None:
    """Hidden states twice: with the positions that the pipeline gets, and with get_rope_index's (`_mrope`)."""
    pipe = checkpoints.load("edit", CHECKPOINTS / "edit", "pil")
    model = pipe.text_encoder
    # After the processor's rounding these are grids of 6x10 and 10x6 patches: windows are partial on both axes.
    pictures = [scenes.house().resize((140, 84)), scenes.boat().resize((84, 140))]
    out, notes = {f"picture_{number}": pixels(picture) for number, picture in enumerate(pictures, 1)}, {}
    for name, given in {"one": pictures[:1], "two": pictures}.items():
        shown = "".join(f"Picture {n + 1}: <|vision_start|><|image_pad|><|vision_end|>" for n in range(len(given)))
        text = pipe.prompt_template_encode.format(shown + INSTRUCTION)
        inputs = dict(pipe.processor(text=[text], images=given, padding=True, return_tensors="pt"))
        types = inputs.pop("mm_token_type_ids")
        positions, delta = model.model.get_rope_index(
            inputs["input_ids"], types, inputs["image_grid_thw"], attention_mask=inputs["attention_mask"]
        )
        with Recorder(block=model.model.visual.blocks[0]) as seen:
            embeds = torch.cat(model.model.get_image_features(inputs["pixel_values"], inputs["image_grid_thw"]).pooler_output)
        out |= {
            f"{name}_pixel_values": inputs["pixel_values"], f"{name}_image_grid_thw": inputs["image_grid_thw"],
            f"{name}_input_ids": inputs["input_ids"], f"{name}_position_ids": positions[:, 0],
            f"{name}_rope_delta": delta, f"{name}_vision_block_0": seen["block"], f"{name}_image_embeds": embeds,
            f"{name}_embeds": hidden_states(model, inputs),
            f"{name}_embeds_mrope": hidden_states(model, {**inputs, "mm_token_type_ids": types}),
        }  # fmt: skip
        model.model.rope_deltas = None
        notes[name] = {"prompt": INSTRUCTION, "text": text}
    # Picture 1 is the same in both.
    first = out["one_pixel_values"].shape[0]
    out["two_pixel_values_2"] = out.pop("two_pixel_values")[first:]
    save("text_edit", out, notes)
