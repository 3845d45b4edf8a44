//! Generations: samples, cancelling and going on.

use std::ops::ControlFlow;

use runtime::text::{Finish, GenerateOptions, SamplerOptions};
use runtime::{ErrorKind, Sequence, SessionOptions};

use crate::api::{Continued, ControlApi, GenerationApi, ModelApi, SessionApi};
use crate::{both, fails, open, session, step, tiny};

both!(
    samples_are_reproducible_and_differ_from_one_another,
    generations_end_where_they_should,
    a_cancelled_generation_goes_on_as_if_it_had_not_been,
    a_generation_is_not_run_elsewhere_or_over_changed_sequences,
    a_fault_inside_ends_the_generation_and_nothing_else,
);

/// Sampled continuations of so many tokens.
fn sampled(max_tokens: usize) -> GenerateOptions {
    let sampler = SamplerOptions {
        temperature: 1.0,
        seed: 11,
        repetition_penalty: 1.3,
        ..SamplerOptions::default()
    };
    GenerateOptions { max_tokens, sampler, ignore_eos: true, ..GenerateOptions::default() }
}

/// Runs a generation to its end.
fn generate<S: SessionApi>(
    session: &mut S,
    sequence: Sequence,
    prompt: &[u32],
    samples: usize,
    options: &GenerateOptions,
) -> Vec<Continued> {
    let mut generation = session.generation(sequence, prompt, samples, options).expect("one");
    generation.run(session, &mut |_| ControlFlow::Continue(())).expect("tokens");
    (0..samples).map(|i| generation.progress(i).expect("a continuation")).collect()
}

fn samples_are_reproducible_and_differ_from_one_another<M: ModelApi>() {
    let (plan, ids) = tiny();
    let mut session = session(&open::<M>(&plan, 2));
    let mut run = |samples| {
        let sequence = session.add();
        let all = generate(&mut session, sequence, &ids[..20], samples, &sampled(12));
        assert!(all.iter().all(|c| c.tokens.len() == 12));
        assert!(all.iter().all(|c| c.finish == Some(Finish::MaxTokens)));
        all.into_iter().map(|c| c.tokens).collect::<Vec<_>>()
    };
    let four = run(4);
    assert_eq!(four, run(4));
    assert_eq!(four[0], run(1)[0], "siblings do not change a sample");
    assert!(four[1..].iter().all(|s| s != &four[0]));
}

fn generations_end_where_they_should<M: ModelApi>() {
    let (plan, ids) = tiny();
    let options = SessionOptions { context: 24, ..SessionOptions::default() };
    let mut session = open::<M>(&plan, 1).session(&options).expect("a session");
    let mut run = |options: &GenerateOptions| {
        let sequence = session.add();
        let found = generate(&mut session, sequence, &ids[..20], 1, options).remove(0);
        assert_eq!(found.sequence, sequence);
        found
    };
    let whole = run(&sampled(100));
    // The last token is not fed back.
    assert_eq!((whole.tokens.len(), whole.finish), (5, Some(Finish::Context)));
    let stop_tokens = vec![whole.tokens[3]];
    let before = whole.tokens.iter().take_while(|t| **t != stop_tokens[0]).count();
    let stopped = run(&GenerateOptions { stop_tokens, ..sampled(100) });
    assert_eq!(stopped.tokens, whole.tokens[..before]);
    assert_eq!(stopped.finish, Some(Finish::EndOfText));
    assert!(run(&sampled(0)).tokens.is_empty());

    let sequence = session.add();
    let mut generation =
        session.generation(sequence, &ids[..20], 1, &sampled(4)).expect("a generation");
    generation.run(&mut session, &mut |_| ControlFlow::Break(())).expect("it ended");
    let found = generation.progress(0).expect("a continuation");
    assert_eq!(found.finish, Some(Finish::Callback));
    assert_eq!(found.tokens, whole.tokens[..1]);
    fails(session.generation(sequence, &[], 1, &sampled(4)).map(drop), ErrorKind::InvalidInput);
    fails(
        session.generation(sequence, &ids[..2], 0, &sampled(4)).map(drop),
        ErrorKind::InvalidInput,
    );
    let mut wrong = sampled(4);
    wrong.sampler.top_p = -1.0;
    fails(session.generation(sequence, &ids[..2], 1, &wrong).map(drop), ErrorKind::InvalidInput);
}

fn a_cancelled_generation_goes_on_as_if_it_had_not_been<M: ModelApi>() {
    let (plan, ids) = tiny();
    let model: M = open(&plan, 1);
    let prompt = &ids[..20];
    let options = SessionOptions { chunk: 8, ..SessionOptions::default() };
    let mut session = model.session(&options).expect("a session");
    let sequence = session.add();
    let mut whole = session.generation(sequence, prompt, 3, &sampled(16)).expect("a generation");
    whole.run(&mut session, &mut |_| ControlFlow::Continue(())).expect("tokens");
    let expected = [0, 1, 2].map(|i| whole.progress(i).expect("a continuation").tokens);

    let mut session = model.session(&options).expect("a session");
    let control = session.control();
    let sequence = session.add();
    let mut generation =
        session.generation(sequence, prompt, 3, &sampled(16)).expect("a generation");
    assert!(generation.progress(0).is_none(), "the prompt is not computed yet");
    // Before anything is computed.
    control.cancel();
    let run = generation.run(&mut session, &mut |_| ControlFlow::Continue(()));
    fails(run, ErrorKind::Cancelled);
    assert_eq!(generation.committed(), 0);
    assert_eq!(session.position(sequence).expect("a position"), 0);
    let mut heard: Vec<Vec<u32>> = vec![Vec::new(); 3];
    loop {
        control.reset();
        // After every fourth token: in the midst of a batch too, which ends first.
        let mut count = 0;
        let result = generation.run(&mut session, &mut |piece| {
            heard[piece.sample].extend(piece.token);
            count += 1;
            if count == 4 {
                control.cancel();
            }
            ControlFlow::Continue(())
        });
        assert_eq!(generation.committed(), heard.iter().map(Vec::len).sum::<usize>());
        for (sample, heard) in heard.iter().enumerate() {
            let progress = generation.progress(sample).expect("a continuation");
            assert_eq!(&progress.tokens, heard);
            let position = session.position(progress.sequence).expect("a position");
            assert_eq!(position, prompt.len() + heard.len() - 1);
        }
        if result.is_ok() {
            break;
        }
        fails(result, ErrorKind::Cancelled);
        assert!(count <= 6, "{count} tokens after the flag was set at 4");
    }
    assert_eq!(heard, expected);
    let [prefill, decode] = generation.usage();
    assert_eq!((prefill.tokens, decode.tokens), (20, whole.usage()[1].tokens));
    // All have ended: nothing more is said.
    let mut said = 0;
    let run = generation.run(&mut session, &mut |_| {
        said += 1;
        ControlFlow::Continue(())
    });
    run.expect("nothing to do");
    assert_eq!(said, 0);
}

fn a_generation_is_not_run_elsewhere_or_over_changed_sequences<M: ModelApi>() {
    let (plan, ids) = tiny();
    let model: M = open(&plan, 2);
    let mut first = session(&model);
    let sequence = first.add();
    let mut generation =
        first.generation(sequence, &ids[..8], 1, &sampled(16)).expect("a generation");
    let mut go_on = |_: runtime::text::Piece<'_>| ControlFlow::Continue(());
    fails(generation.run(&mut session(&model), &mut go_on), ErrorKind::InvalidInput);
    step(&mut first, sequence, &ids[..12]);
    fails(generation.run(&mut first, &mut go_on), ErrorKind::InvalidInput);
    assert_eq!(generation.committed(), 0);
}

fn a_fault_inside_ends_the_generation_and_nothing_else<M: ModelApi>() {
    let (plan, ids) = tiny();
    let mut session = session(&open::<M>(&plan, 2));
    let sequence = session.add();
    let mut generation =
        session.generation(sequence, &ids[..8], 1, &sampled(16)).expect("a generation");
    let failure = generation.faulty_run(&mut session).expect_err("a fault");
    assert_eq!((failure.kind, generation.committed()), (None, 0), "{}", failure.message);
    let mut go_on = |_: runtime::text::Piece<'_>| ControlFlow::Continue(());
    fails(generation.run(&mut session, &mut go_on), ErrorKind::InvalidInput);
    let fresh = session.add();
    let expected = step(&mut session, fresh, &ids[..9]);
    assert_eq!(step(&mut session, sequence, &ids[8..9]), expected);
}
