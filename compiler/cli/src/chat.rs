//! `limbeck chat`: a conversation, a line at a time.

use std::io::{BufRead, IsTerminal};
use std::ops::ControlFlow;

use limbeck::text::{ChatMessage, GenerateOptions, generate};
use limbeck::{Model, Sequence, Session, SessionOptions};
use serde_json::json;

use crate::args::{ChatArgs, PlanArgs};
use crate::output::{Failure, note, print, print_json, print_line};
use crate::run::{render, summary};

const HELP: &str = "/reset begins anew, /budget B changes the budget, /quit ends";

pub fn execute(args: ChatArgs) -> Result<(), Failure> {
    let model = args.plan.open()?;
    args.plan.budget()?;
    model.chat_template()?;
    let mut chat = Chat::new(&args, &model)?;
    let terminal = std::io::stdin().is_terminal();
    if terminal {
        note(HELP);
    }
    for line in std::io::stdin().lock().lines() {
        let line = line.map_err(|e| Failure::new(format!("stdin: {e}")))?;
        match line.trim() {
            "" => continue,
            "/quit" => break,
            "/reset" => chat.reset(),
            command if command.starts_with("/budget") => {
                let mut plan = args.plan.clone();
                plan.budget = command["/budget".len()..].trim().to_owned();
                if let Err(Failure::Message(message)) = chat.set_budget(&plan) {
                    note(message);
                }
            }
            command if command.starts_with('/') => note(HELP),
            _ => chat.answer(&line)?,
        }
    }
    Ok(())
}

/// The messages so far and the sequence that holds the tokens common to all their renderings.
struct Chat<'a> {
    args: &'a ChatArgs,
    model: &'a Model,
    session: Session,
    sequence: Sequence,
    /// The sequence's tokens.
    ids: Vec<u32>,
    /// Role and content.
    messages: Vec<(&'static str, String)>,
}

impl<'a> Chat<'a> {
    fn new(args: &'a ChatArgs, model: &'a Model) -> Result<Chat<'a>, Failure> {
        let mut session = args.plan.session(model, SessionOptions::default())?;
        let sequence = session.sequence();
        let mut chat =
            Chat { args, model, session, sequence, ids: Vec::new(), messages: Vec::new() };
        chat.reset();
        Ok(chat)
    }

    fn set_budget(&mut self, plan: &PlanArgs) -> Result<(), Failure> {
        plan.budget()?;
        Ok(self.session.set_price(plan.price()?)?)
    }

    fn reset(&mut self) {
        let system = self.args.system.iter();
        self.messages = system.map(|text| ("system", text.clone())).collect();
    }

    fn answer(&mut self, line: &str) -> Result<(), Failure> {
        self.messages.push(("user", line.to_owned()));
        let messages: Vec<ChatMessage<'_>> =
            self.messages.iter().map(|(role, content)| ChatMessage { role, content }).collect();
        let text = render(self.model, &messages)?;
        let ids = self.model.tokenizer()?.encode(&text, false)?;
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
        let show = !self.args.plan.json;
        let mut broken = None;
        let prompt = &ids[shared..];
        let generation =
            generate(&mut self.session, self.sequence, prompt, 1, &options, |piece| {
                match if show { print(piece.text) } else { Ok(()) } {
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
        let Some(answer) = generation.continuations.first() else { return Ok(()) };
        self.ids = ids;
        self.ids.extend(&answer.tokens);
        self.ids.truncate(self.session.position(self.sequence)?);
        self.messages.push(("assistant", answer.text.clone()));
        if self.args.plan.json {
            return print_json(&json!({
                "text": answer.text,
                "finish": answer.finish.name(),
                "usage": generation.decode,
            }));
        }
        print_line("")?;
        summary(&generation);
        Ok(())
    }
}
