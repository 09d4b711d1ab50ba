//! Subtitle text: demuxers give Pango markup, muxers take UTF-8.

/// `markup` with its entities resolved; tags go too unless `keep_tags`, for formats such as SubRip that know <i> and <b>.
pub(crate) fn to_text(markup: &str, keep_tags: bool) -> String {
    let mut text = String::with_capacity(markup.len());
    let mut rest = markup;
    while let Some(at) = rest.find(['<', '&']) {
        text.push_str(&rest[..at]);
        rest = &rest[at..];
        let length = if rest.starts_with('<') {
            let length = rest.find('>').map_or(rest.len(), |end| end + 1);
            if keep_tags {
                text.push_str(&rest[..length]);
            }
            length
        } else if let Some((length, character)) = entity(rest) {
            text.push(character);
            length
        } else {
            text.push('&');
            1
        };
        rest = &rest[length..];
    }
    text.push_str(rest);
    text
}

/// The entity that `text` begins with: its length in bytes and what it stands for.
fn entity(text: &str) -> Option<(usize, char)> {
    let end = text.find(';')?;
    let character = match &text[1..end] {
        "amp" => '&',
        "lt" => '<',
        "gt" => '>',
        "quot" => '"',
        "apos" => '\'',
        name => {
            let code = match name.strip_prefix("#x") {
                Some(hexadecimal) => u32::from_str_radix(hexadecimal, 16).ok()?,
                None => name.strip_prefix('#')?.parse().ok()?,
            };
            char::from_u32(code)?
        }
    };
    Some((end + 1, character))
}

#[cfg(test)]
mod tests {
    use super::to_text;

    #[test]
    fn entities_are_resolved_and_tags_kept_or_dropped() {
        let markup = "<i>Tom &amp; Jerry</i> &lt;3 &#39;x&#x41; a & b; c";
        assert_eq!(to_text(markup, true), "<i>Tom & Jerry</i> <3 'xA a & b; c");
        assert_eq!(to_text(markup, false), "Tom & Jerry <3 'xA a & b; c");
        assert_eq!(to_text("plain", false), "plain");
        assert_eq!(to_text("cut <i", false), "cut ");
    }
}
