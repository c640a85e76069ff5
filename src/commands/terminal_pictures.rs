//! Pictures in a terminal, by the escape codes of one that shows pictures. In: a JPEG. Out: the codes that show it, a few lines high.
//!
//! Kitty's protocol takes pixels, iTerm2's the JPEG as it is; each terminal that shows pictures knows one of them, or sixels, which are not
//! made here.

use std::fmt::Write;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use crate::cli::TerminalPictures;
use crate::error::Error;
use crate::preprocess::{DecodeLimits, decode};

/// Lines of the terminal that a picture is high.
const LINES: u32 = 8;
/// Characters of one code of kitty's protocol.
const CHUNK: usize = 4096;

/// The protocols that are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    /// <https://sw.kovidgoyal.net/kitty/graphics-protocol/>
    Kitty,
    /// <https://iterm2.com/documentation-images.html>
    Iterm,
}

/// The protocol that was asked for, or that of the terminal according to the environment.
///
/// # Errors
/// When the environment names no terminal that shows pictures.
pub(super) fn protocol(
    asked: TerminalPictures,
    variable: &dyn Fn(&'static str) -> Option<String>,
) -> Result<Protocol, Error> {
    let is = |name: &'static str, values: &[&str]| variable(name).is_some_and(|value| values.contains(&value.as_str()));
    let is_set = |name: &'static str| variable(name).is_some_and(|value| !value.is_empty());
    match asked {
        TerminalPictures::Kitty => Ok(Protocol::Kitty),
        TerminalPictures::Iterm => Ok(Protocol::Iterm),
        TerminalPictures::Auto if is_set("KITTY_WINDOW_ID") || is("TERM", &["xterm-kitty", "xterm-ghostty"]) => {
            Ok(Protocol::Kitty)
        }
        TerminalPictures::Auto if is("TERM_PROGRAM", &["ghostty"]) || is_set("KONSOLE_VERSION") => Ok(Protocol::Kitty),
        TerminalPictures::Auto if is("TERM_PROGRAM", &["iTerm.app", "WezTerm", "vscode", "mintty"]) => {
            Ok(Protocol::Iterm)
        }
        TerminalPictures::Auto => Err(Error::Unfit(
            "--pictures: expected a terminal that shows pictures (kitty, Ghostty, Konsole, iTerm2, WezTerm, VS Code, mintty), found another one\n\
             hint: if it does, name its protocol by --pictures=kitty or --pictures=iterm; `nightcap report` shows pictures in a browser"
                .to_owned(),
        )),
    }
}

impl Protocol {
    /// The codes that show a picture; the cursor is then in the line below. None: it cannot be decoded.
    pub(super) fn show(self, jpeg: &[u8]) -> Option<String> {
        match self {
            Self::Iterm => {
                let (size, data) = (jpeg.len(), BASE64_STANDARD.encode(jpeg));
                Some(format!(
                    "\u{1b}]1337;File=inline=1;size={size};height={LINES};preserveAspectRatio=1:{data}\u{7}\n"
                ))
            }
            Self::Kitty => {
                let image = decode(jpeg, DecodeLimits { max_image_pixels: 1 << 24 }).ok()?;
                let data = BASE64_STANDARD.encode(&image.pixels);
                let mut codes = String::with_capacity(data.len() + data.len() / 100);
                let chunks = data.as_bytes().chunks(CHUNK).filter_map(|chunk| std::str::from_utf8(chunk).ok());
                let last = data.len().div_ceil(CHUNK).saturating_sub(1);
                for (number, chunk) in chunks.enumerate() {
                    let more = u8::from(number < last);
                    // Writing to a string cannot fail. q=2: the terminal does not answer.
                    let _ = match number {
                        0 => {
                            let (width, height) = (image.width, image.height);
                            write!(
                                codes,
                                "\u{1b}_Ga=T,q=2,f=24,s={width},v={height},r={LINES},m={more};{chunk}\u{1b}\\"
                            )
                        }
                        _ => write!(codes, "\u{1b}_Gm={more};{chunk}\u{1b}\\"),
                    };
                }
                codes.push('\n');
                Some(codes)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use TerminalPictures::{Auto, Iterm, Kitty};

    use super::*;

    #[test]
    fn the_terminal_decides_the_protocol() {
        let found = |asked, variables: &[(&str, &str)]| {
            let variables: Vec<(String, String)> =
                variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
            let variable = move |wanted: &'static str| {
                variables.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.clone())
            };
            protocol(asked, &variable).ok()
        };
        for (variables, expected) in [
            (&[("TERM", "xterm-kitty")][..], Some(Protocol::Kitty)),
            (&[("KITTY_WINDOW_ID", "1"), ("TERM", "xterm-256color")], Some(Protocol::Kitty)),
            (&[("TERM", "xterm-256color"), ("TERM_PROGRAM", "ghostty")], Some(Protocol::Kitty)),
            (&[("TERM", "xterm-256color"), ("TERM_PROGRAM", "iTerm.app")], Some(Protocol::Iterm)),
            (&[("TERM", "xterm-256color"), ("TERM_PROGRAM", "WezTerm")], Some(Protocol::Iterm)),
            (&[("TERM", "xterm-256color"), ("TERM_PROGRAM", "Apple_Terminal")], None),
            (&[("KITTY_WINDOW_ID", "")], None),
            (&[], None),
        ] {
            assert_eq!(found(Auto, variables), expected, "{variables:?}");
            assert_eq!(found(Kitty, variables), Some(Protocol::Kitty));
            assert_eq!(found(Iterm, variables), Some(Protocol::Iterm));
        }
    }
}
