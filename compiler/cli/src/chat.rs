//! `limbeck chat`: a conversation, a line at a time. On a terminal the budget can be turned, and an
//! answer be ended, while it streams.

use std::io::IsTerminal;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use limbeck::text::{ChatMessage, GenerateOptions, generate};
use limbeck::{Control, Model, Sequence, Session, SessionOptions, Usage};
use serde_json::{Value, json};

use crate::args::{BudgetReport, ChatArgs, note_unmet};
use crate::lines::Lines;
use crate::output::{Failure, note, print, print_json, print_line};
use crate::run::summary;

const HELP: &str = "/budget B changes the budget (full, 0.6, price:0.02, latency:8ms, deadline:400ms), \
                    /stop ends an answer, /reset begins anew, /quit ends";

pub fn execute(args: ChatArgs) -> Result<(), Failure> {
    let model = args.plan.open()?;
    model.chat_template()?;
    let mut chat = Chat::new(&args, &model)?;
    let terminal = std::io::stdin().is_terminal();
    if terminal {
        note(HELP);
    }
    let dial = chat.dial.clone();
    let live = terminal || args.live;
    let lines = Lines::read(move |line| live && dial.turn(line));
    let mut unread = None;
    for line in lines.map_err(|e| Failure::new(format!("stdin: {e}")))? {
        let line = match line {
            Ok(line) => line,
            Err(e) => {
                unread = Some(Failure::new(format!("stdin: {e}")));
                break;
            }
        };
        match line.trim() {
            "" => continue,
            "/quit" => break,
            "/reset" => chat.reset(),
            // An answer that a script wants ended has ended by then.
            _ if chat.dial.turn(&line) => continue,
            command if command.starts_with('/') => note(HELP),
            _ => chat.answer(&line)?,
        }
    }
    if args.plan.runner.json && (unread.is_none() || !chat.answers.is_empty()) {
        print_json(&chat.report())?;
    }
    match (unread, chat.refused) {
        (Some(failure), _) => Err(failure),
        (None, 0) => Ok(()),
        (None, lines) => Err(Failure::new(format!("lines not answered: {lines}"))),
    }
}

/// What lines may touch while an answer streams, from another thread.
#[derive(Clone)]
struct Dial {
    control: Control,
    /// Whether the answer at hand is to end.
    stop: Arc<AtomicBool>,
}

impl Dial {
    /// Follows a line, if it is one that turns the dial.
    fn turn(&self, line: &str) -> bool {
        match line.trim().split_once(char::is_whitespace).unwrap_or((line.trim(), "")) {
            ("/budget", text) => self.set_budget(text.trim()).unwrap_or_else(note),
            ("/stop", _) => self.stop.store(true, Ordering::Relaxed),
            _ => return false,
        }
        true
    }

    /// Sets the budget of what follows; the limits stay.
    fn set_budget(&self, text: &str) -> limbeck::Result<()> {
        self.control.set_budget(text.parse()?, self.control.settings().limits)
    }
}

/// The messages so far and the sequence that holds the tokens common to all their renderings.
struct Chat<'a> {
    args: &'a ChatArgs,
    model: &'a Model,
    session: Session,
    sequence: Sequence,
    dial: Dial,
    /// The sequence's tokens.
    ids: Vec<u32>,
    /// Role and content.
    messages: Vec<(&'static str, String)>,
    /// All answers in JSON, and what they spent.
    answers: Vec<Value>,
    usage: Usage,
    /// Lines that were too long to answer.
    refused: usize,
}

impl<'a> Chat<'a> {
    fn new(args: &'a ChatArgs, model: &'a Model) -> Result<Chat<'a>, Failure> {
        let mut session = args.plan.runner.session(model, SessionOptions::default())?;
        let sequence = session.sequence();
        let dial = Dial { control: session.control(), stop: Arc::default() };
        let (ids, messages) = (Vec::new(), Vec::new());
        let (answers, usage) = (Vec::new(), Usage { fraction: 1.0, ..Usage::default() });
        let mut chat = Chat {
            args,
            model,
            session,
            sequence,
            dial,
            ids,
            messages,
            answers,
            usage,
            refused: 0,
        };
        chat.reset();
        Ok(chat)
    }

    fn reset(&mut self) {
        let system = self.args.system.iter();
        self.messages = system.map(|text| ("system", text.clone())).collect();
    }

    fn answer(&mut self, line: &str) -> Result<(), Failure> {
        self.messages.push(("user", line.to_owned()));
        let messages: Vec<ChatMessage<'_>> =
            self.messages.iter().map(|(role, content)| ChatMessage { role, content }).collect();
        let text = self.model.render_chat(&messages, true)?;
        let ids = self.model.tokenizer()?.encode(&text, false)?;
        let context = self.session.context();
        if ids.len() > context {
            let (count, what) = (ids.len(), "tokens with what came before, beyond the context of");
            note(format!(
                "the line makes {count} {what} {context}: it is left out; /reset begins anew"
            ));
            self.messages.pop();
            self.refused += 1;
            return Ok(());
        }
        // What the sequence already holds is not computed again; the last token always is, since
        // its logits are wanted.
        let shared = self.ids.iter().zip(&ids).take_while(|(a, b)| a == b).count();
        let shared = shared.min(ids.len().saturating_sub(1));
        self.session.rewind(self.sequence, shared)?;
        let options = GenerateOptions {
            max_tokens: self.args.max_tokens,
            sampler: self.args.sampling.options(self.model),
            stop: self.args.sampling.stop.clone(),
            ..GenerateOptions::default()
        };
        let show = !self.args.plan.runner.json;
        let stop = Arc::clone(&self.dial.stop);
        stop.store(false, Ordering::Relaxed);
        let mut broken = None;
        let prompt = &ids[shared..];
        let generation =
            generate(&mut self.session, self.sequence, prompt, 1, &options, |piece| {
                match if show { print(piece.text) } else { Ok(()) } {
                    Ok(()) if stop.load(Ordering::Relaxed) => ControlFlow::Break(()),
                    Ok(()) => ControlFlow::Continue(()),
                    Err(e) => {
                        broken = Some(e);
                        ControlFlow::Break(())
                    }
                }
            })?;
        if let Some(e) = broken {
            return Err(e);
        }
        let mut usage = generation.prefill.clone();
        usage.add(&generation.decode);
        note_unmet(self.dial.control.settings().budget, &usage);
        let Some(answer) = generation.continuations.first() else { return Ok(()) };
        self.ids = ids;
        self.ids.extend(&answer.tokens);
        self.ids.truncate(self.session.position(self.sequence)?);
        self.messages.push(("assistant", answer.text.clone()));
        self.usage.add(&usage);
        if self.args.plan.runner.json {
            self.answers.push(json!({
                "text": answer.text,
                "finish": answer.finish.name(),
                "usage": usage,
                "budget": BudgetReport::new(self.dial.control.settings().budget, &usage),
            }));
            return Ok(());
        }
        print_line("")?;
        summary(&generation);
        self.spend(&generation.decode);
        Ok(())
    }

    /// All answers with their usage in sum and the last one's budget.
    fn report(&self) -> Value {
        let budget = BudgetReport::new(self.dial.control.settings().budget, &self.usage);
        json!({"answers": self.answers, "usage": self.usage, "budget": budget})
    }

    /// What the answer spent, where that can vary.
    fn spend(&self, usage: &Usage) {
        if let Some(site_fraction) = usage.site_fraction {
            note(format!(
                "spent {:.3} of the full compute ({:.3} at the sites), budget {}",
                usage.fraction,
                site_fraction,
                self.dial.control.settings().budget
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use limbeck::Budget;

    #[test]
    fn lines_turn_the_dial_from_another_thread_or_are_left_alone() {
        let dial = Dial { control: Control::default(), stop: Arc::default() };
        let other = dial.clone();
        let turned = std::thread::spawn(move || {
            let lines = ["/budget 0.5", " /stop ", "/budgets 1", "tell me of /stop", "/quit", ""];
            lines.map(|line| other.turn(line))
        });
        assert_eq!(turned.join().unwrap(), [true, true, false, false, false, false]);
        assert_eq!(dial.control.settings().budget, Budget::Fraction(0.5));
        assert!(dial.stop.load(Ordering::Relaxed));
        // A budget that cannot be read is taken, reported, and changes nothing.
        assert!(dial.turn("/budget") && dial.turn("/budget much"));
        assert_eq!(dial.control.settings().budget, Budget::Fraction(0.5));
    }
}
