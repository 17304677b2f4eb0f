//! What the terminal can show, from its environment variables.
//!
//! Asking the terminal itself (device attributes) would need raw mode and a time limit, and would eat keys that the user typed
//! ahead; the variables are right for the terminals in use, and `--preview-protocol`-like flags can override them.

/// How to show a picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// Kitty's graphics protocol (Kitty, Ghostty).
    Kitty,
    /// Inline images of iTerm2 (also WezTerm, mintty).
    Iterm2,
    /// DEC Sixel (foot, mlterm, contour, …).
    Sixel,
    /// Half-block characters.
    Blocks(Colours),
    /// Nothing: a dumb terminal.
    None,
}

/// Colours that escape sequences can name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Colours {
    /// 24 bits.
    True,
    /// The 6x6x6 cube and greys of the 256-colour palette.
    Palette256,
    /// None: brightness as shades of one colour.
    None,
}

/// Chooses from environment variables; `lookup` gives a variable's value. That output goes to a terminal at all is the caller's to know.
///
/// `NO_COLOR` (any non-empty value) turns coloured characters off. It does not turn off the graphics protocols: those draw a picture,
/// which is what was asked for. Inside tmux and screen, which swallow graphics unless configured, characters are used.
pub fn detect(lookup: impl Fn(&str) -> Option<String>) -> Protocol {
    let get = |name: &str| lookup(name).unwrap_or_default();
    let has = |name: &str| !get(name).is_empty();
    let term = get("TERM");
    // Windows' own console sets no TERM but announces itself.
    if term == "dumb" || (term.is_empty() && !has("WT_SESSION")) {
        return Protocol::None;
    }
    let multiplexed = has("TMUX") || has("STY") || term.starts_with("screen") || term.starts_with("tmux");
    if !multiplexed {
        let program = get("TERM_PROGRAM");
        if has("KITTY_WINDOW_ID") || term == "xterm-kitty" || term == "xterm-ghostty" || program == "ghostty" {
            return Protocol::Kitty;
        }
        if matches!(program.as_str(), "iTerm.app" | "WezTerm" | "mintty") || get("LC_TERMINAL") == "iTerm2" {
            return Protocol::Iterm2;
        }
        if term.contains("sixel") || ["foot", "mlterm", "yaft", "contour"].iter().any(|name| term.starts_with(name)) {
            return Protocol::Sixel;
        }
    }
    Protocol::Blocks(colours(&term, &get("COLORTERM"), has("NO_COLOR"), has("WT_SESSION")))
}

fn colours(term: &str, colorterm: &str, no_color: bool, windows_terminal: bool) -> Colours {
    if no_color {
        Colours::None
    } else if matches!(colorterm, "truecolor" | "24bit") || term.contains("direct") || windows_terminal {
        Colours::True
    } else if term.contains("256color") {
        Colours::Palette256
    } else {
        Colours::None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(variables: &[(&str, &str)]) -> Protocol {
        detect(|name| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned()))
    }

    #[test]
    fn known_terminals() {
        for (variables, expected) in [
            (&[][..], Protocol::None),
            (&[("TERM", "dumb"), ("COLORTERM", "truecolor")], Protocol::None),
            (&[("TERM", "xterm-kitty"), ("KITTY_WINDOW_ID", "1")], Protocol::Kitty),
            (&[("TERM", "xterm-256color"), ("KITTY_WINDOW_ID", "1"), ("NO_COLOR", "1")], Protocol::Kitty),
            (&[("TERM", "xterm-ghostty")], Protocol::Kitty),
            (&[("TERM", "xterm-256color"), ("TERM_PROGRAM", "iTerm.app")], Protocol::Iterm2),
            (&[("TERM", "xterm-256color"), ("TERM_PROGRAM", "WezTerm")], Protocol::Iterm2),
            (&[("TERM", "foot")], Protocol::Sixel),
            (&[("TERM", "xterm-sixel")], Protocol::Sixel),
            (&[("TERM", "xterm-256color"), ("COLORTERM", "truecolor")], Protocol::Blocks(Colours::True)),
            (&[("TERM", "xterm-256color")], Protocol::Blocks(Colours::Palette256)),
            (&[("TERM", "xterm-256color"), ("NO_COLOR", "1")], Protocol::Blocks(Colours::None)),
            (&[("TERM", "xterm-256color"), ("NO_COLOR", "")], Protocol::Blocks(Colours::Palette256)),
            (&[("TERM", "linux")], Protocol::Blocks(Colours::None)),
            (&[("TERM", "tmux-256color"), ("KITTY_WINDOW_ID", "1")], Protocol::Blocks(Colours::Palette256)),
            (&[("TERM", "xterm-kitty"), ("TMUX", "/tmp/x"), ("COLORTERM", "24bit")], Protocol::Blocks(Colours::True)),
            (&[("WT_SESSION", "x")], Protocol::Blocks(Colours::True)),
        ] {
            assert_eq!(from(variables), expected, "{variables:?}");
        }
    }
}
