//! What is done to a chat template before minijinja compiles it.
//!
//! Fuel bounds how long a template runs and how many bytes it makes, but not three other things:
//! the stack that compiling a long expression takes; values that contain each other so often or
//! so deeply that comparing, printing or dropping one never ends; and operators that repeat
//! such values. So what no chat template needs is refused, and what builds lists and maps is
//! wrapped in a call that looks at what was built.

use minijinja::machinery::{Span, Token, tokenize};
use minijinja::syntax::SyntaxConfig;

use crate::{Error, ErrorKind, Result};

/// Function that passes a value on after looking at its size.
pub(super) const CHECKED: &str = "lbk_checked";
/// Filter that passes on anything but lists and maps.
pub(super) const TEXT: &str = "lbk_text";

/// Largest template, in bytes.
const MAX_SOURCE: usize = 128 << 10;
/// Most tokens between `{{` and `}}` or `{%` and `%}`.
const MAX_TAG: usize = 400;
/// Most `elif` in a template, since each is nested in the one before.
const MAX_ELIF: usize = 64;
/// Statements that reach for other templates, or that call themselves.
const REFUSED: [&str; 5] = ["include", "import", "from", "extends", "block"];
/// Words after which a bracket begins a value.
const KEYWORDS: [&str; 13] =
    ["in", "if", "else", "elif", "and", "or", "not", "is", "do", "for", "set", "call", "with"];

/// An open bracket.
struct Open {
    start: usize,
    /// Whether it holds a list, a map or a tuple.
    builds: bool,
    /// Whether it is a parenthesis that is a tuple if there is a comma.
    groups: bool,
    /// Whether an operand of `~` has begun.
    concat: bool,
}

/// How transformers sets Jinja up.
pub(super) fn syntax() -> SyntaxConfig {
    SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build().unwrap_or_default()
}

/// The template with its checks.
pub(super) fn guard(source: &str) -> Result<String> {
    if source.len() > MAX_SOURCE {
        return Err(refuse(format!("has more than {MAX_SOURCE} bytes")));
    }
    let mut insertions: Vec<(usize, String)> = Vec::new();
    let mut tag: Vec<(Token<'_>, Span)> = Vec::new();
    let mut elifs = 0;
    for item in tokenize(source, false, syntax()) {
        let (token, span) = item.map_err(|error| Error::new(ErrorKind::Plan, error.to_string()))?;
        match token {
            Token::TemplateData(_) => continue,
            Token::VariableStart | Token::BlockStart => tag.clear(),
            _ => (),
        }
        let ends = matches!(token, Token::VariableEnd | Token::BlockEnd);
        tag.push((token, span));
        if tag.len() > MAX_TAG {
            return Err(refuse(format!("has an expression of more than {MAX_TAG} parts")));
        }
        if ends {
            elifs += usize::from(matches!(tag.get(1), Some((Token::Ident("elif"), _))));
            guard_tag(&tag, &mut insertions)?;
        }
    }
    if elifs > MAX_ELIF {
        return Err(refuse(format!("has more than {MAX_ELIF} elif")));
    }
    // A stable sort: at one place, what was found first comes first.
    insertions.sort_by_key(|(at, _)| *at);
    let mut guarded = String::with_capacity(source.len() * 2);
    let mut copied = 0;
    for (at, text) in insertions {
        guarded.push_str(source.get(copied..at).unwrap_or_default());
        guarded.push_str(&text);
        copied = at;
    }
    guarded.push_str(source.get(copied..).unwrap_or_default());
    Ok(guarded)
}

fn refuse(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Unsupported, message)
}

/// Looks at one tag, from its start to its end token, and says what is to be inserted where.
fn guard_tag(tag: &[(Token<'_>, Span)], insertions: &mut Vec<(usize, String)>) -> Result<()> {
    let statement = match tag {
        [(Token::BlockStart, _), (Token::Ident(word), _), ..] => *word,
        _ => "",
    };
    if REFUSED.contains(&statement) {
        return Err(refuse(format!("uses {statement}")));
    }
    // The names before `=` or `in` are targets, not values.
    let mut targets = matches!(statement, "set" | "for");
    let mut dotted = false;
    let mut wrapped = false;
    let mut open = vec![Open { start: 0, builds: false, groups: false, concat: false }];
    let mut before: &[(Token<'_>, Span)] = &[];
    for (i, (token, span)) in tag.iter().enumerate() {
        let end_before = before.last().map_or(0, |(_, span)| span.end_offset as usize);
        let after_value = ends_value(before);
        let text = || (end_before, format!("|{TEXT}"));
        let Some(inner) = open.last_mut() else {
            return Err(Error::new(ErrorKind::Plan, "has brackets that do not match"));
        };
        if targets {
            match token {
                Token::Dot => dotted = true,
                Token::Assign if statement == "set" => {
                    targets = false;
                    // What an attribute holds outlives a loop; sums of lists double.
                    wrapped = dotted || tag.iter().any(|(token, _)| matches!(token, Token::Plus));
                    if wrapped {
                        insertions.push((span.end_offset as usize, format!(" {CHECKED}(")));
                    }
                }
                Token::Ident("in") if statement == "for" => {
                    if dotted {
                        return Err(refuse("loops over attributes"));
                    }
                    targets = false;
                }
                _ => (),
            }
            before = tag.get(..=i).unwrap_or_default();
            continue;
        }
        if inner.concat && after_value && ends_operand(token, before) {
            insertions.push(text());
            inner.concat = false;
        }
        match token {
            Token::Tilde => {
                if !matches!(insertions.last(), Some((at, _)) if *at == end_before) {
                    insertions.push(text());
                }
                inner.concat = true;
            }
            Token::Mul => {
                let next = tag.get(i + 1).map(|(token, _)| token);
                let previous = before.last().map(|(token, _)| token);
                if ![previous, next].into_iter().flatten().any(is_text) {
                    return Err(refuse("multiplies what is not a quoted text"));
                }
            }
            Token::Comma if inner.groups => inner.builds = true,
            Token::Comma if open.len() == 1 && statement != "with" => {
                return Err(refuse("has a tuple without parentheses"));
            }
            Token::BracketOpen | Token::BraceOpen | Token::ParenOpen => {
                let parenthesis = matches!(token, Token::ParenOpen);
                open.push(Open {
                    start: span.start_offset as usize,
                    builds: !(parenthesis || after_value && matches!(token, Token::BracketOpen)),
                    groups: parenthesis && !after_value,
                    concat: false,
                });
            }
            Token::BracketClose | Token::BraceClose | Token::ParenClose => {
                if let Some(closed) = open.pop()
                    && closed.builds
                {
                    insertions.push((closed.start, format!("{CHECKED}(")));
                    insertions.push((span.end_offset as usize, ")".to_owned()));
                }
            }
            Token::BlockEnd if wrapped => insertions.push((end_before, ")".to_owned())),
            _ => (),
        }
        before = tag.get(..=i).unwrap_or_default();
    }
    Ok(())
}

fn is_text(token: &Token<'_>) -> bool {
    matches!(token, Token::Str(_) | Token::String(_))
}

/// Whether these tokens end with a value, so that a bracket after them is a call or an index.
fn ends_value(tokens: &[(Token<'_>, Span)]) -> bool {
    match tokens {
        [.., (Token::Dot | Token::Pipe, _), (Token::Ident(_), _)] => true,
        [(Token::BlockStart, _), (Token::Ident(_), _)] => false,
        [.., (Token::Ident(word), _)] => !KEYWORDS.contains(word),
        [.., (token, _)] => {
            is_text(token)
                || matches!(token, Token::ParenClose | Token::BracketClose | Token::BraceClose)
                || matches!(token, Token::Int(_) | Token::Int128(_) | Token::Float(_))
        }
        [] => false,
    }
}

/// Whether an operand of `~` that ended before this token does not go on with it.
fn ends_operand(token: &Token<'_>, before: &[(Token<'_>, Span)]) -> bool {
    match token {
        Token::Dot | Token::Pipe | Token::BracketOpen | Token::ParenOpen => false,
        Token::Ident(word) => {
            KEYWORDS.contains(word) && !matches!(before.last(), Some((Token::Dot | Token::Pipe, _)))
        }
        _ => true,
    }
}
