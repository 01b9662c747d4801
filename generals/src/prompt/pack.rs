//! Fenced data within a budget of tokens: what weighs most goes in first, what does not fit is cut and named.

use super::Fence;

/// Letters of a cut text that are worth showing.
const WORTH: usize = 400;

/// About how many tokens a text is: a token for each four bytes, and one more.
///
/// Tokenisers differ; for English and code they lie within a quarter of this, and whoever has to be exact asks the provider.
#[must_use]
pub fn tokens(text: &str) -> u64 {
    u64::try_from(text.len() / 4).unwrap_or(u64::MAX).saturating_add(1)
}

/// The user's side of a prompt, as it grows.
#[derive(Debug)]
pub struct Pack<'a> {
    fence: &'a Fence,
    text: String,
    left: u64,
    omitted: Vec<&'static str>,
}

impl<'a> Pack<'a> {
    /// An empty one of at most so many tokens.
    #[must_use]
    pub fn new(fence: &'a Fence, tokens_max: u64) -> Pack<'a> {
        Pack { fence, text: String::new(), left: tokens_max, omitted: Vec::new() }
    }

    /// Our own words: never a foreign text.
    pub fn say(&mut self, words: &'static str) {
        self.text.push_str(words);
        self.text.push('\n');
        self.left = self.left.saturating_sub(tokens(words));
    }

    /// Foreign text, of which at most `tokens_max` go in. Returns whether all of it did.
    pub fn data(&mut self, kind: &'static str, name: &str, text: &str, tokens_max: u64) -> bool {
        if text.trim().is_empty() {
            return true;
        }
        let frame = tokens(&self.fence.around(kind, name, ""));
        let room = self.left.saturating_sub(frame).min(tokens_max);
        let room = usize::try_from(room.saturating_mul(4)).unwrap_or(usize::MAX);
        if text.len() > room && room < WORTH {
            if !self.omitted.contains(&kind) {
                self.omitted.push(kind);
            }
            return false;
        }
        let whole = text.len() <= room;
        let mut end = text.len().min(room);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        // At the end of a line, where there is one in the last quarter.
        if !whole && let Some(at) = text[..end].rfind('\n').filter(|at| *at > end / 4 * 3) {
            end = at;
        }
        let fenced = self.fence.around(kind, name, &text[..end]);
        self.left = self.left.saturating_sub(tokens(&fenced));
        self.text.push_str(&fenced);
        if !whole {
            self.text.push_str("(cut: it is longer than what is shown)\n");
        }
        whole
    }

    /// Tokens that are left.
    #[must_use]
    pub fn left(&self) -> u64 {
        self.left
    }

    /// The text, and which kinds of data did not fit at all.
    #[must_use]
    pub fn done(mut self) -> (String, Vec<&'static str>) {
        if !self.omitted.is_empty() {
            self.text.push_str(&format!("(left out for want of room: {})\n", self.omitted.join(", ")));
        }
        (self.text, self.omitted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_cut_or_named_and_never_split_in_a_letter() {
        let fence = Fence::of(7);
        let mut pack = Pack::new(&fence, 400);
        assert!(pack.data("title", "", "short", 100));
        assert!(!pack.data("diff", "a.rs", &"é".repeat(5_000), 1_000));
        assert!(!pack.data("file", "b.rs", &"x".repeat(5_000), 1_000));
        let (text, omitted) = pack.done();
        assert!(tokens(&text) < 440, "{}", tokens(&text));
        assert_eq!(omitted, ["file"]);
        assert!(text.contains("(cut:") && text.contains("left out for want of room: file"));
    }
}
