//! The prompts that the models were trained with. The wording is exact to the space, because any difference changes the
//! picture.

/// The template around the caption of a decompose.
const DECOMPOSE_SYSTEM: &str = "<|im_start|>system\n\
    Describe the image by detailing the color, shape, size, texture, quantity, text, spatial \
    relationships of the objects and background:<|im_end|>\n\
    <|im_start|>user\n";

/// The template around an edit's pictures and instruction.
const EDIT_SYSTEM: &str = "<|im_start|>system\n\
    Describe the key features of the input image (color, shape, size, texture, objects, background), \
    then explain how the user's text instruction should alter or modify the image. Generate a new image \
    that meets the user's requirements while maintaining consistency with the original input where \
    appropriate.<|im_end|>\n\
    <|im_start|>user\n";

const ASSISTANT: &str = "<|im_end|>\n\
    <|im_start|>assistant\n";

/// The prompt for a caption in English, with the picture's placeholder.
pub const CAPTION: &str = "<|im_start|>system\n\
    You are a helpful assistant.<|im_end|>\n\
    <|im_start|>user\n\
    # Image Annotator\n\
    You are a professional\n\
    image annotator. Please write an image caption based on the input image:\n\
    1. Write the caption using natural,\n\
    descriptive language without structured formats or rich text.\n\
    2. Enrich caption details by including: \n\
    \x20- Object\n\
    attributes, such as quantity, color, shape, size, material, state, position, actions, and so on\n\
    \x20- Vision Relations\n\
    between objects, such as spatial relations, functional relations, possessive relations, attachment \
    relations, action\n\
    relations, comparative relations, causal relations, and so on\n\
    \x20- Environmental details, such as weather, lighting,\n\
    colors, textures, atmosphere, and so on\n\
    \x20- Identify the text clearly visible in the image, without translation or\n\
    explanation, and highlight it in the caption with quotation marks\n\
    3. Maintain authenticity and accuracy:\n\
    \x20- Avoid\n\
    generalizations\n\
    \x20- Describe all visible information in the image, while do not add information not explicitly \
    shown in\n\
    the image\n\
    <|vision_start|><|image_pad|><|vision_end|><|im_end|>\n\
    <|im_start|>assistant\n";

/// The question what a layer is, with the picture's placeholder. The reference has none.
pub const LAYER_NAME: &str = "<|im_start|>system\n\
    You are a helpful assistant.<|im_end|>\n\
    <|im_start|>user\n\
    <|vision_start|><|image_pad|><|vision_end|>\
    What does this picture show? Answer with a name of one to three words, without a sentence.<|im_end|>\n\
    <|im_start|>assistant\n";

/// The whole text for a decompose prompt.
pub fn decompose(prompt: &str) -> String {
    format!("{DECOMPOSE_SYSTEM}{prompt}{ASSISTANT}")
}

/// The whole text for an edit of several pictures, which come first and are numbered from 1.
pub fn edit(pictures: usize, instruction: &str) -> String {
    let places: String =
        (1..=pictures).map(|number| format!("Picture {number}: <|vision_start|><|image_pad|><|vision_end|>")).collect();
    format!("{EDIT_SYSTEM}{places}{instruction}{ASSISTANT}")
}
