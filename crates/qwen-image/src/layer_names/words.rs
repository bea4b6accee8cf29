//! The things that a caption names.

use super::{colors::Color, shapes::Shape};

/// A longer phrase is not just a thing and how it looks.
const MOST_WORDS: usize = 5;
const MOST_LETTERS: usize = 40;
/// Longer captions are prose, whose colors belong to parts of things.
const MOST_THINGS: usize = 12;
/// Words between things.
const JOINTS: [&str; 14] = [
    "above",
    "below",
    "under",
    "over",
    "on",
    "and",
    "with",
    "beside",
    "behind",
    "near",
    "in front of",
    "on top of",
    "next to",
    "against",
];
const ARTICLES: [&str; 4] = ["a", "an", "the", "one"];
const BEGINNINGS: [&str; 4] = ["a picture of ", "an image of ", "a drawing of ", "a photo of "];

#[derive(Debug, Clone, PartialEq)]
pub struct DescribedObject {
    /// As it is shown: "Red star".
    pub name: String,
    pub color: Option<Color>,
    pub shape: Option<Shape>,
    pub is_background: bool,
}

/// The things of a caption of one sentence that consists of nothing else; otherwise none.
pub fn things(caption: &str) -> Vec<DescribedObject> {
    let text = caption.trim().trim_end_matches('.').to_lowercase();
    if !text.chars().all(|c| c.is_alphabetic() || matches!(c, ' ' | ',' | '-')) {
        return Vec::new();
    }
    let text = BEGINNINGS.iter().find_map(|beginning| text.strip_prefix(beginning)).unwrap_or(&text);
    let mut text = format!(" {} ", text.replace(',', " , "));
    // Longer joints first, because "on top of" has an "on".
    let mut joints = JOINTS.to_vec();
    joints.sort_by_key(|joint| std::cmp::Reverse(joint.len()));
    for joint in joints {
        text = text.replace(&format!(" {joint} "), " , ");
    }
    let phrases: Vec<Vec<&str>> = text.split(',').map(words_of).filter(|words| !words.is_empty()).collect();
    let is_prose = phrases.len() > MOST_THINGS || phrases.iter().any(|words| words.len() > MOST_WORDS);
    if is_prose { Vec::new() } else { phrases.iter().map(|words| thing(words)).collect() }
}

/// A name from the answer to "What is this?", or none if it is not just a few words.
pub fn name_from_answer(answer: &str) -> Option<String> {
    let line = answer.trim().lines().next()?;
    let text = line.trim_matches(|c: char| !c.is_alphanumeric());
    if text.chars().any(|c| !c.is_alphanumeric() && !matches!(c, ' ' | '-' | '\'' | '’' | '&')) {
        return None;
    }
    let words = words_of(text);
    if words.is_empty() || words.len() > MOST_WORDS || text.chars().count() > MOST_LETTERS {
        return None;
    }
    Some(capitalized(&words.join(" ")))
}

fn words_of(phrase: &str) -> Vec<&str> {
    let mut words: Vec<&str> = phrase.split_whitespace().collect();
    if words.first().is_some_and(|word| ARTICLES.contains(&word.to_lowercase().as_str())) {
        words.remove(0);
    }
    words
}

fn thing(words: &[&str]) -> DescribedObject {
    let noun = words.last().copied().unwrap_or_default();
    DescribedObject {
        name: capitalized(&words.join(" ")),
        color: words.iter().find_map(|word| Color::named(word)),
        shape: Shape::named(noun),
        is_background: noun == "background",
    }
}

fn capitalized(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_of_a_few_words_is_a_name() {
        for (answer, name) in [
            ("a wooden boat.", Some("Wooden boat")),
            ("\"The Lighthouse\"\nIt stands on a rock", Some("Lighthouse")),
            ("Woman's red dress", Some("Woman's red dress")),
            ("Eine Möwe", Some("Eine Möwe")),
            ("", None),
            ("...", None),
            ("a", None),
            ("This picture shows a boat in front of a harbor", None),
            ("boat, sea, sky", None),
            ("<|im_start|>", None),
        ] {
            assert_eq!(name_from_answer(answer).as_deref(), name, "{answer}");
        }
    }

    #[test]
    fn a_caption_is_a_list_of_things() {
        let names = |caption: &str| things(caption).into_iter().map(|thing| thing.name).collect::<Vec<_>>();
        let caption = "A red star above a blue house on a striped green background.";
        assert_eq!(names(caption), ["Red star", "Blue house", "Striped green background"]);
        assert!(things(caption)[2].is_background && things(caption)[0].color == Color::named("red"));
        assert_eq!(names("A picture of a heart, a ring and a cloud"), ["Heart", "Ring", "Cloud"]);
        assert_eq!(names("One cat on top of the dark brown table"), ["Cat", "Dark brown table"]);
        assert_eq!(names("A sign that says \"open\""), Vec::<String>::new());
        assert_eq!(names("A very long and winding road that leads to your door at night"), Vec::<String>::new());
    }
}
