//! Chat templates: Jinja as Hugging Face transformers runs it
//! (`utils/chat_template_utils.py`), in minijinja.
//!
//! A template comes with a plan and is hostile until it has ended: it runs with fuel, without
//! files or environment, and after `template_guard` has looked at it.

use std::time::{SystemTime, UNIX_EPOCH};

use minijinja::value::{Rest, Value, ValueKind};
use minijinja::{Environment, State, UndefinedBehavior, context};

use super::template_guard::{self, CHECKED, TEXT};
use crate::{Error, ErrorKind, Result};

/// What a rendering may cost, in instructions and 64 bytes of data: for the template itself, for
/// each message, and for each 8 bytes of messages. Comparing texts is free, so the fuel also
/// bounds how large a text can be made and how often it can be compared.
const FUEL: u64 = 50_000;
const FUEL_PER_MESSAGE: u64 = 512;
/// Macros within macros.
const RECURSION: usize = 24;
const NAME: &str = "chat template";

type Jinja<T> = std::result::Result<T, minijinja::Error>;

/// One message of a chat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChatMessage<'a> {
    /// Who speaks: `system`, `user`, `assistant`.
    pub role: &'a str,
    /// What was said.
    pub content: &'a str,
}

/// What a template can ask for beside the messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ChatOptions<'a> {
    /// Whether the text ends where the assistant is to speak.
    pub add_generation_prompt: bool,
    /// The token that begins a text, as text; empty when there is none.
    pub bos_token: &'a str,
    /// The token that ends a text, as text; empty when there is none.
    pub eos_token: &'a str,
}

/// A chat template, ready to render.
#[derive(Clone, Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
}

impl ChatTemplate {
    /// Compiles a template.
    ///
    /// # Errors
    /// Plan, for one that is no Jinja; unsupported, for one that uses what no chat
    /// template needs or is larger or more deeply nested than any.
    pub fn new(source: &str) -> Result<ChatTemplate> {
        let guarded = template_guard::guard(source).map_err(|error| error.at(NAME))?;
        let mut environment = Environment::new();
        environment.set_syntax(template_guard::syntax());
        environment.set_undefined_behavior(UndefinedBehavior::Lenient);
        environment.set_recursion_limit(RECURSION);
        environment.set_unknown_method_callback(method);
        environment.set_formatter(|out, state, value| {
            charge(state, value)?;
            minijinja::escape_formatter(out, state, value)
        });
        // These nest or repeat values in ways that fuel does not see.
        for filter in ["batch", "slice", "zip", "groupby", "chain", "dictsort", "pprint", "sum"] {
            environment.remove_filter(filter);
        }
        environment.remove_global("debug");
        environment.add_filter("tojson", tojson);
        environment.add_filter("join", join);
        environment.add_filter("string", string);
        environment.add_filter(TEXT, text);
        environment.add_function(CHECKED, checked);
        environment.add_function("namespace", namespace);
        environment.add_function("dict", dict);
        environment.add_function("raise_exception", raise_exception);
        environment.add_function("strftime_now", strftime_now);
        environment
            .add_template_owned(NAME, guarded)
            .map_err(|error| failure(ErrorKind::Plan, &error))?;
        Ok(ChatTemplate { environment })
    }

    /// The text of a chat.
    ///
    /// # Errors
    /// Invalid input, when the template refuses the messages; plan, when it fails or
    /// uses too much.
    pub fn render(
        &self,
        messages: &[ChatMessage<'_>],
        options: &ChatOptions<'_>,
    ) -> Result<String> {
        let fuel: u64 = messages
            .iter()
            .map(|message| {
                FUEL_PER_MESSAGE + (message.content.len() + message.role.len()) as u64 / 8
            })
            .sum();
        let messages: Vec<Value> = messages
            .iter()
            .map(|message| context! { role => message.role, content => message.content })
            .collect();
        let context = context! {
            messages,
            add_generation_prompt => options.add_generation_prompt,
            bos_token => options.bos_token,
            eos_token => options.eos_token,
            tools => (),
            documents => (),
        };
        let mut environment = self.environment.clone();
        environment.set_fuel(Some(FUEL + fuel));
        let template =
            environment.get_template(NAME).map_err(|error| failure(ErrorKind::Plan, &error))?;
        template.render(context).map_err(|error| {
            let refused = error.detail().is_some_and(|detail| detail.starts_with(REFUSED));
            failure(if refused { ErrorKind::InvalidInput } else { ErrorKind::Plan }, &error)
        })
    }
}

fn failure(kind: ErrorKind, error: &minijinja::Error) -> Error {
    Error::new(kind, error.to_string()).at(NAME)
}

fn invalid(message: impl Into<String>) -> minijinja::Error {
    minijinja::Error::new(minijinja::ErrorKind::InvalidOperation, message.into())
}

/// How a message of `raise_exception` begins.
const REFUSED: &str = "the template refuses: ";

fn raise_exception(message: &str) -> Jinja<Value> {
    Err(invalid(format!("{REFUSED}{message}")))
}

/// Most values within a value, counted each time that they occur, and their depth.
const MAX_NODES: usize = 4096;
const MAX_DEPTH: usize = 16;

/// Size of a value: itself, all values in it, and a 64th of the bytes of its strings. An error
/// for one that is too deep or too large.
fn size(value: &Value, depth: usize, left: &mut usize, bytes: &mut usize) -> Jinja<()> {
    let too_large = || invalid("a value is too deeply nested or too large");
    *left = left.checked_sub(1).ok_or_else(too_large)?;
    match value.kind() {
        ValueKind::String | ValueKind::Bytes => *bytes += value.len().unwrap_or(0),
        ValueKind::Seq | ValueKind::Map | ValueKind::Iterable => {
            if depth == 0 {
                return Err(too_large());
            }
            for item in value.try_iter()? {
                size(&item, depth - 1, left, bytes)?;
                if value.kind() == ValueKind::Map {
                    size(&value.get_item(&item)?, depth - 1, left, bytes)?;
                }
            }
        }
        _ => (),
    }
    Ok(())
}

/// Pays for looking at all of a list or map; other values are free.
fn charge(state: &State, value: &Value) -> Jinja<()> {
    if matches!(value.kind(), ValueKind::Seq | ValueKind::Map | ValueKind::Iterable) {
        let (mut left, mut bytes) = (MAX_NODES, 0);
        size(value, MAX_DEPTH, &mut left, &mut bytes)?;
        state.consume_fuel(((MAX_NODES - left) / 4 + bytes / 64) as u64)?;
    }
    Ok(())
}

/// Wrapped by the guard around whatever builds lists and maps.
fn checked(state: &State, value: Value) -> Jinja<Value> {
    charge(state, &value)?;
    Ok(value)
}

/// Put by the guard behind the operands of `~`.
fn text(value: Value) -> Jinja<Value> {
    match value.kind() {
        ValueKind::Seq | ValueKind::Map | ValueKind::Iterable | ValueKind::Plain => {
            Err(invalid("`~` joins texts and numbers, not lists or maps"))
        }
        _ => Ok(value),
    }
}

fn string(state: &State, value: Value) -> Jinja<Value> {
    charge(state, &value)?;
    Ok(if value.kind() == ValueKind::String { value } else { Value::from(value.to_string()) })
}

fn namespace(state: &State, defaults: Option<minijinja::value::ValueOrKwargs>) -> Jinja<Value> {
    let defaults = defaults.map(|defaults| defaults.into_value());
    if let Some(defaults) = &defaults {
        charge(state, defaults)?;
    }
    minijinja::functions::namespace(defaults.map(Into::into))
}

fn dict(state: &State, value: Option<Value>, fields: minijinja::value::Kwargs) -> Jinja<Value> {
    let made = minijinja::functions::dict(value, fields)?;
    charge(state, &made)?;
    Ok(made)
}

/// `join`, as a filter, paid before the text grows.
fn join(
    state: &State,
    values: &Value,
    separator: Option<&str>,
    rest: Rest<Value>,
) -> Jinja<String> {
    if !rest.is_empty() {
        return Err(invalid("join takes a separator and nothing else"));
    }
    let mut joined = String::new();
    for (i, value) in values.try_iter()?.enumerate() {
        charge(state, &value)?;
        let separator = separator.filter(|_| i > 0).unwrap_or("");
        let length = value.as_str().map_or(0, str::len) + separator.len();
        state.consume_fuel(1 + length as u64 / 64)?;
        joined.push_str(separator);
        match value.as_str() {
            Some(text) => joined.push_str(text),
            None => joined.push_str(&value.to_string()),
        }
    }
    Ok(joined)
}

/// Python's methods of strings, lists and dicts.
fn method(state: &mut State, value: &Value, name: &str, args: &[Value]) -> Jinja<Value> {
    match (value.as_str(), name, args) {
        // Its widths are not paid for.
        (Some(_), "format", _) => Err(invalid("str.format is not supported")),
        (Some(separator), "join", [values]) => {
            join(state, values, Some(separator), Rest(Vec::new())).map(Value::from)
        }
        _ => {
            charge(state, value)?;
            minijinja_contrib::pycompat::unknown_method_callback(state, value, name, args)
        }
    }
}

/// `json.dumps` with `ensure_ascii=False`, as transformers has it, on one line.
fn tojson(state: &State, value: &Value) -> Jinja<String> {
    charge(state, value)?;
    let mut out = String::new();
    write_json(value, &mut out)?;
    state.consume_fuel(out.len() as u64 / 16)?;
    Ok(out)
}

fn write_json(value: &Value, out: &mut String) -> Jinja<()> {
    match value.kind() {
        ValueKind::None => out.push_str("null"),
        ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
        ValueKind::Number => out.push_str(&value.to_string()),
        ValueKind::String => write_json_text(value.as_str().unwrap_or_default(), out),
        ValueKind::Seq | ValueKind::Iterable => {
            out.push('[');
            for (i, item) in value.try_iter()?.enumerate() {
                out.push_str(if i > 0 { ", " } else { "" });
                write_json(&item, out)?;
            }
            out.push(']');
        }
        ValueKind::Map => {
            out.push('{');
            for (i, key) in value.try_iter()?.enumerate() {
                out.push_str(if i > 0 { ", " } else { "" });
                write_json_text(&key.to_string(), out);
                out.push_str(": ");
                write_json(&value.get_item(&key)?, out)?;
            }
            out.push('}');
        }
        kind => return Err(invalid(format!("{kind} has no JSON"))),
    }
    Ok(())
}

fn write_json_text(text: &str, out: &mut String) {
    out.push('"');
    for character in text.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\0'..='\u{1f}' => out.push_str(&format!("\\u{:04x}", u32::from(character))),
            _ => out.push(character),
        }
    }
    out.push('"');
}

/// The date and time, in UTC.
fn strftime_now(format: &str) -> Jinja<String> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    strftime(now, format)
}

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] =
    ["Thursday", "Friday", "Saturday", "Sunday", "Monday", "Tuesday", "Wednesday"];

/// Python's `strftime` for the directives that do not depend on a place.
fn strftime(seconds: u64, format: &str) -> Jinja<String> {
    let days = seconds / 86_400;
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    let month_name = MONTHS.get(month as usize - 1).copied().unwrap_or_default();
    let day_name = DAYS.get((days % 7) as usize).copied().unwrap_or_default();
    let mut out = String::new();
    let mut characters = format.chars();
    while let Some(character) = characters.next() {
        if character != '%' {
            out.push(character);
            continue;
        }
        let part = match characters.next() {
            Some('Y') => format!("{year:04}"),
            Some('y') => format!("{:02}", year % 100),
            Some('m') => format!("{month:02}"),
            Some('d') => format!("{day:02}"),
            Some('B') => month_name.to_owned(),
            Some('b') => month_name.chars().take(3).collect(),
            Some('A') => day_name.to_owned(),
            Some('a') => day_name.chars().take(3).collect(),
            Some('H') => format!("{hour:02}"),
            Some('M') => format!("{minute:02}"),
            Some('S') => format!("{second:02}"),
            Some('%') => "%".to_owned(),
            _ => {
                return Err(invalid(format!("strftime_now does not know the format {format:?}")));
            }
        };
        out.push_str(&part);
    }
    Ok(out)
}

/// Year, month and day of a day since 1970-01-01 (Hinnant, "chrono-compatible low-level date
/// algorithms", `civil_from_days`): years begin in March, eras have 400 years.
fn civil(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let march_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    (year + era * 400 + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;
    use std::time::{Duration, Instant};

    #[derive(Deserialize)]
    struct Golden {
        name: String,
        template: String,
        bos_token: String,
        eos_token: String,
        chats: Vec<Chat>,
    }

    #[derive(Deserialize)]
    struct Chat {
        messages: Vec<(String, String)>,
        add_generation_prompt: bool,
        expected: Option<String>,
    }

    #[test]
    fn chats_are_rendered_as_by_transformers() {
        let goldens: Vec<Golden> =
            serde_json::from_str(include_str!("../../../tests/golden/chat_templates.json"))
                .unwrap();
        assert!(goldens.len() >= 6);
        for golden in &goldens {
            let template = ChatTemplate::new(&golden.template).unwrap();
            for (i, chat) in golden.chats.iter().enumerate() {
                let messages: Vec<ChatMessage> = chat
                    .messages
                    .iter()
                    .map(|(role, content)| ChatMessage { role, content })
                    .collect();
                let options = ChatOptions {
                    add_generation_prompt: chat.add_generation_prompt,
                    bos_token: &golden.bos_token,
                    eos_token: &golden.eos_token,
                };
                let rendered = template.render(&messages, &options);
                match &chat.expected {
                    Some(expected) => {
                        assert_eq!(&rendered.unwrap(), expected, "{} {i}", golden.name);
                    }
                    None => assert_eq!(rendered.unwrap_err().kind(), ErrorKind::InvalidInput),
                }
            }
        }
    }

    fn render(source: &str) -> Result<String> {
        let message = ChatMessage { role: "user", content: "hello" };
        ChatTemplate::new(source)?.render(&[message], &ChatOptions::default())
    }

    #[test]
    fn a_long_chat_is_within_the_limits() {
        let content = "word ".repeat(200);
        let messages = vec![ChatMessage { role: "user", content: &content }; 500];
        let goldens: Vec<Golden> =
            serde_json::from_str(include_str!("../../../tests/golden/chat_templates.json"))
                .unwrap();
        // Mistral's wants alternating roles; the mixed one keeps a list, within its limits.
        for golden in goldens.iter().filter(|g| !["mistral", "mixed"].contains(&g.name.as_str())) {
            let template = ChatTemplate::new(&golden.template).unwrap();
            let rendered = template.render(&messages, &ChatOptions::default()).unwrap();
            assert!(rendered.len() > 500 * 900);
        }
    }

    #[test]
    fn dates_are_those_of_python() {
        // Of datetime.fromtimestamp(t, timezone.utc).strftime(format).
        let format = "%Y-%m-%d %H:%M:%S %a %A %b %B %y %%";
        let cases = [
            (0, "1970-01-01 00:00:00 Thu Thursday Jan January 70 %"),
            (951_827_696, "2000-02-29 12:34:56 Tue Tuesday Feb February 00 %"),
            (1_735_689_599, "2024-12-31 23:59:59 Tue Tuesday Dec December 24 %"),
            (4_107_542_400, "2100-03-01 00:00:00 Mon Monday Mar March 00 %"),
        ];
        for (seconds, expected) in cases {
            assert_eq!(strftime(seconds, format).unwrap(), expected);
        }
        assert!(strftime(0, "%Q").is_err());
        assert_eq!(render("{{ strftime_now('%Y') | length }}").unwrap(), "4");
    }

    #[test]
    fn errors_say_what_is_wrong() {
        let refused = render("{{ raise_exception('no system role') }}").unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::InvalidInput);
        assert!(refused.to_string().contains("no system role"));
        for source in [
            "{% if %}",
            "{{ a",
            "{% for x in y %}",
            "{{ x | nothing }}",
            "{{ ) }}",
            "{% set = ( %}",
        ] {
            assert_eq!(render(source).unwrap_err().kind(), ErrorKind::Plan, "{source}");
        }
        for source in ["{% include 'x' %}", "{% extends 'x' %}", "{% block a %}{% endblock %}"] {
            assert_eq!(render(source).unwrap_err().kind(), ErrorKind::Unsupported, "{source}");
        }
    }

    /// In a loop that never ends, `step`, after `start`.
    fn endless(start: &str, step: &str) -> String {
        let range = "range(100000)";
        format!(
            "{start}{{% for i in {range} %}}{{% for j in {range} %}}{step}{{% endfor %}}{{% endfor %}}"
        )
    }

    fn hostile() -> Vec<String> {
        let mut all: Vec<String> = [
            "{{ 'x' * 10**9 }}",
            "{{ ('x' * 90000000) | length }}",
            "{{ [1] * 10**9 }}",
            "{% for i in range(10**12) %}x{% endfor %}",
            "{{ 10**10**10 }}",
            "{{ '{:>2000000000}'.format('a') }}",
            "{{ '%2000000000s' | format('a') }}",
            "{% set s = 'x' * 100000 %}{{ s.replace('x', s) }}",
            "{% set s = 'x' * 100000 %}{{ s | replace('x', s) }}",
            "{% set s = '\n' * 100000 %}{{ s | indent(100000) }}",
            "{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}",
            "{% macro f(x) %}{{ f([x, x]) }}{% endmacro %}{{ f(1) }}",
            "{% macro f(x) %}{{ f(x + x) }}{{ x }}{% endmacro %}{{ f([1]) }}",
            "{% macro f(x) %}{{ f(x[:] + x[:]) ~ x }}{% endmacro %}{{ f([1]) }}",
            "{% macro f() %}{{ caller() }}{% call f() %}{% call f() %}x{% endcall %}{% endcall %}{% endmacro %}{% call f() %}y{% endcall %}",
            "{% for i in range(10) recursive %}{{ loop([1, 2, 3]) }}{% endfor %}",
            "{% block a %}{{ self.a() }}{% endblock %}",
            "{% set ns = namespace() %}{% set ns.x = ns %}{{ ns }}",
            "{% set ns = namespace() %}{% set ns.x = ns %}{{ ns | string }}",
            "{% set ns = namespace() %}{% set ns.x = ns %}{{ ns == ns.x }}{{ ns ~ 'a' }}",
            "{% set ns = namespace() %}{% set ns.x = ns %}{{ ns | tojson }}",
            "{% set s = 'x' * 1000000 %}{% set l = range(100000) | map('replace', '', s) | list %}{{ l }}",
            "{% set x = range(100000) | map('string') | list | join('x' * 1000000) %}",
            "{{ [1] | batch(1000000000, 0) }}",
            "{{ [1] | slice(1000000000) }}",
            "{% set a = 'x' * 6000000 %}{% set b = 'x' * 6000000 %}{% for i in range(50000) %}{{ a == b }}{% endfor %}",
        ]
        .map(String::from)
        .into();
        let space = "{% set ns = namespace(x=[1], y=[1]) %}";
        for step in [
            "",
            "x",
            "{% set ns.x = [ns.x] %}",
            "{% set ns.x = [ns.x, ns.x] %}",
            "{% set ns.x = (ns.x, ns.x) %}",
            "{% set ns.x = {'a': ns.x, 'b': [ns.x]} %}",
            "{% set ns.x = dict(a=ns.x, b=ns.x) %}",
            "{% set ns.x = namespace(x=ns.x) %}",
            "{% set ns.x = ns.x | map('list') | list %}",
            "{% set ns.x = ns.x + ns.x %}",
            "{% set ns.x = ns.x + [1] %}",
            "{% set ns.x = ns.x[::-1] %}",
            "{% set ns.x = ns.x | reverse %}",
            "{% set ns.x = [ns.x, ns.x] %}{% set ns.y = [ns.y, ns.y] %}{{ ns.x == ns.y }}",
            "{% set ns.x = ns.x | string %}",
            "{% set ns.x = (ns.x | tojson) %}",
            "{% set ns.x = '' ~ ns.x | join ~ ns.x | join %}",
        ] {
            all.push(endless(space, step));
        }
        let doubled = format!("{{% set x = [1] %}}{}", "{% set x = x + x %}".repeat(60));
        for end in ["{{ x }}", "{{ x ~ '' }}", "{{ '' ~ x }}", "{{ x | join }}", "{{ x == x[1:] }}"]
        {
            all.push(format!("{doubled}{end}"));
            all.push(format!("{}{end}", doubled.replace("x + x", "[x, x]")));
        }
        for n in [300, 20_000] {
            all.push(format!("{{{{ 1{} }}}}", "+1".repeat(n)));
            all.push(format!("{{{{ a{} }}}}", ".b".repeat(n)));
            all.push(format!("{{{{ a{} }}}}", "|upper".repeat(n)));
            all.push(format!("{{{{ a{} }}}}", "()".repeat(n)));
            all.push(format!("{{{{ {}a }}}}", "not ".repeat(n)));
            all.push(format!("{{{{ {}a }}}}", "-".repeat(n)));
            all.push(format!("{{{{ a{} }}}}", "**a".repeat(n)));
            all.push(format!("{{{{ a{} }}}}", " ~ a".repeat(n)));
            all.push(format!("{{{{ a{} }}}}", " is defined".repeat(n)));
            all.push(format!("{{{{ {} 1 }}}}", "1 if a else ".repeat(n)));
            all.push(format!("{{{{ {}a{} }}}}", "(".repeat(n), ")".repeat(n)));
            all.push(format!("{{{{ {}a{} }}}}", "[".repeat(n), "]".repeat(n)));
            all.push(format!("{}{}", "{% if a %}".repeat(n), "{% endif %}".repeat(n)));
            all.push(format!("{{% if a %}}{}{{% endif %}}", "{% elif a %}".repeat(n)));
            all.push("{% set x %}".repeat(n));
            all.push(format!("{}{}", "{% filter upper %}".repeat(n), "{% endfilter %}".repeat(n)));
        }
        all
    }

    /// Whatever a template does, it ends within a second, as text or as an error; that it does
    /// so on a thread's small stack is part of the test.
    #[test]
    fn hostile_templates_end() {
        let mut failed = 0;
        for source in hostile() {
            let begun = Instant::now();
            let rendered = render(&source);
            let took = begun.elapsed();
            let start: String = source.chars().take(120).collect();
            assert!(took < Duration::from_secs(1), "{took:?}: {start}");
            match rendered {
                Ok(text) => assert!(text.len() < 1 << 20, "{} bytes: {start}", text.len()),
                Err(_) => failed += 1,
            }
        }
        assert!(failed > 60, "{failed}");
    }
}
