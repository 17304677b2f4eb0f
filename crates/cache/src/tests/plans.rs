//! Plans: the file, hostile files, the hash, and what does not fit.

use std::collections::HashMap;

use proptest::prelude::*;
use safetensors::tensor::{Dtype, TensorView};

use super::toy::{Toy, context, header, numbers, policy, sample};
use crate::policies::Replay;
use crate::{
    Branch, CacheError, Coefficients, Context, Guard, ModelValue, Plan, PlanHeader, Planned, RunHeader, Site,
    Validation,
};

/// A plan with random actions at all sites of the toy, its model site and a random span.
pub(super) fn random_plan(seed: u64, toy: &Toy, steps: usize, branches: &[Branch]) -> Plan {
    let mut columns = Vec::new();
    for (number, &branch) in branches.iter().enumerate() {
        let mut sites = vec![Site::model()];
        for block in 0..toy.blocks() {
            sites.extend([Site::attention(block), Site::cross_attention(block), Site::feed_forward(block)]);
        }
        let start = seed as usize % toy.blocks();
        sites.push(Site::span(start..toy.blocks()));
        for (index, site) in sites.into_iter().enumerate() {
            let seed = seed + 10_000 * number as u64 + 100 * index as u64;
            columns.push((site.with_branch(branch), random_column(seed, steps)));
        }
    }
    let model_value = if seed.is_multiple_of(2) { ModelValue::Output } else { ModelValue::Residual };
    let header =
        PlanHeader { run: header(steps), model_value, provenance: "random".into(), repeats: None, validation: None };
    Plan::new(header, steps, &columns).unwrap()
}

fn random_column(seed: u64, steps: usize) -> Vec<Planned> {
    let mut computed = 0;
    let draws = numbers(seed, steps * 5);
    let action = |draws: &[f32]| {
        let action = match draws[0] {
            draw if draw < -0.2 => Planned::Compute,
            draw if draw < 0.3 => Planned::Reuse,
            draw if draw < 0.9 => {
                let count = 1 + ((draws[1] + 1.0) * 1.99) as usize;
                Planned::Forecast(Coefficients::new(&draws[1..=count]).unwrap())
            }
            _ => Planned::Absent,
        };
        if action.reads() > computed {
            computed += 1;
            return Planned::Compute;
        }
        computed += usize::from(action == Planned::Compute);
        action
    };
    draws.chunks_exact(5).map(action).collect()
}

fn sample_plan() -> Plan {
    let mut cx = context(policy("taylor:n=3+order=2"), 8);
    sample(&mut cx, &Toy::new(1, 2), 8, &[(Branch::CONDITIONAL, 1), (Branch::UNCONDITIONAL, 2)]);
    cx.executed_plan()
}

#[test]
fn a_file_reads_back_and_overwrites_atomically() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("toy.plan.safetensors");
    std::fs::write(&path, b"an older file").unwrap();
    let plan = sample_plan();
    plan.save(&path).unwrap();
    assert_eq!(Plan::load(&path).unwrap(), plan);
    let names: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["toy.plan.safetensors"], "no temporary file is left");
    // It is a policy by its name, too.
    let spec = crate::policies::parse(path.to_str().unwrap()).unwrap();
    assert_eq!(spec.name(), "plan");
    assert_eq!(crate::policies::parse(&spec.to_string()).unwrap().to_string(), spec.to_string());
}

#[test]
fn a_folder_that_is_not_there_is_an_error_that_names_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("missing/toy.plan.safetensors");
    for error in [sample_plan().save(&path).unwrap_err(), Plan::load(&path).unwrap_err()] {
        assert!(error.to_string().contains("toy.plan.safetensors"), "{error}");
    }
}

#[test]
fn the_hash_follows_what_decides_the_output_and_nothing_else() {
    let plan = sample_plan();
    let columns: Vec<_> = plan
        .sites()
        .iter()
        .enumerate()
        .map(|(column, &site)| (site, (0..plan.steps()).map(|step| plan.at(step, column)).collect::<Vec<_>>()))
        .collect();
    let rebuilt = |header: PlanHeader, columns: &[(Site, Vec<Planned>)]| Plan::new(header, 8, columns).unwrap().hash();
    let mut reversed = columns.clone();
    reversed.reverse();
    assert_eq!(rebuilt(plan.header().clone(), &reversed), plan.hash());
    let renamed = PlanHeader { provenance: "someone else".into(), ..plan.header().clone() };
    assert_eq!(rebuilt(renamed, &columns), plan.hash());
    let validation = Some(Validation { pictures: 64, median: 42.0, fifth_percentile: 38.5, worst: 33.25 });
    let measured = plan.clone().with_header(PlanHeader { validation, ..plan.header().clone() });
    assert_eq!(measured.hash(), plan.hash());
    assert_eq!(Plan::from_bytes(&measured.to_bytes().unwrap()).unwrap(), measured);
    let other = PlanHeader { model_value: ModelValue::Residual, ..plan.header().clone() };
    assert_ne!(rebuilt(other, &columns), plan.hash());
    let mut edited = columns.clone();
    let forecast = edited[1].1.iter_mut().find(|action| matches!(action, Planned::Forecast(_))).unwrap();
    *forecast = Planned::Forecast(Coefficients::new(&[1.0, 1e-7]).unwrap());
    assert_ne!(rebuilt(plan.header().clone(), &edited), plan.hash());
    assert_eq!(plan.hash().len(), 64);
}

#[test]
fn a_plan_for_another_run_says_what_differs() {
    let plan = sample_plan();
    let here = RunHeader { steps: 12, model: "another".into(), ..header(8) };
    let error = plan.check_matches(&here).unwrap_err().to_string();
    assert!(error.contains("steps is 8 in the plan and 12 here"), "{error}");
    assert!(error.contains("model is toy in the plan and another here"), "{error}");
    assert!(!error.contains("sampler"), "{error}");
    assert!(plan.check_matches(&header(8)).is_ok());
    let refused = Context::new(Box::new(Replay::new(plan)), Guard::default(), here);
    assert!(matches!(refused.err(), Some(CacheError::PlanMismatch { .. })));
}

#[test]
fn a_mask_of_another_length_says_what_to_do() {
    let error = Context::new(policy("mask:1,0,1"), Guard::default(), header(8)).err().unwrap().to_string();
    assert!(error.contains("3 entries") && error.contains("8 steps") && error.contains("slow"), "{error}");
}

#[test]
fn json_shows_letters_and_coefficients() {
    let json = sample_plan().to_json();
    let sites = json["sites"].as_array().unwrap();
    let site = sites.iter().find(|site| site["site"] == "1.attention@cond").unwrap();
    assert_eq!(site["actions"], "CCFFCFFC");
    assert_eq!(site["forecasts"]["2"], serde_json::json!([2.0, -1.0]));
    assert_eq!(json["header"]["run"]["sampler"], "euler");
}

/// Sites of the toy, without spans.
fn sites(toy: &Toy, branch: Branch) -> Vec<Site> {
    let blocks = 0..toy.blocks();
    let parts = blocks.flat_map(|i| [Site::attention(i), Site::cross_attention(i), Site::feed_forward(i)]);
    parts.chain([Site::model()]).map(|site| site.with_branch(branch)).collect()
}

/// Whether a policy decides by what it sees, so that it has no plan before its run.
fn is_adaptive(spelling: &str) -> bool {
    ["dbcache", "easycache", "motion"].iter().any(|name| spelling.starts_with(name))
}

#[test]
fn a_static_policy_compiles_to_the_plan_it_executes() {
    let toy = Toy::new(2, 3);
    for spelling in super::toy::SKIPPING.iter().filter(|spelling| !is_adaptive(spelling)) {
        for guard in [Guard::default(), Guard { warmup: 4, longest_skip: Some(2), ..Guard::default() }] {
            let compiled =
                Plan::compile(policy(spelling).as_mut(), &guard, &header(12), &sites(&toy, Branch::GUIDED)).unwrap();
            let mut cx = Context::new(policy(spelling), guard, header(12)).unwrap();
            sample(&mut cx, &toy, 12, &[(Branch::GUIDED, 1)]);
            assert_eq!(compiled, cx.executed_plan(), "{spelling}");
        }
    }
}

#[test]
fn tables_that_make_no_sense_are_refused() {
    let new = |columns: &[(Site, Vec<Planned>)]| Plan::new(PlanHeader::default(), 3, columns).unwrap_err().to_string();
    let column = |actions: &[Planned]| (Site::attention(0), actions.to_vec());
    let three = Planned::Forecast(Coefficients::new(&[1.0, 2.0, 3.0]).unwrap());
    assert!(new(&[column(&[]), column(&[])]).contains("twice"));
    assert!(new(&[column(&[Planned::Reuse])]).contains("computed 0"));
    assert!(new(&[column(&[Planned::Compute, Planned::Compute, three])]).contains("reads 3 values at step 2"));
    assert!(new(&[column(&[Planned::Compute; 4])]).contains("4 actions in 3 steps"));
    assert!(Plan::new(PlanHeader::default(), 1 << 40, &[]).is_err());
    assert!(Coefficients::new(&[f32::NAN]).is_none() && Coefficients::new(&[]).is_none());
    assert!(Coefficients::new(&[1.0; 5]).is_none());
}

/// A file of two tensors and a header of one's choosing.
fn forge(json: &str, actions: (Dtype, Vec<usize>, &[u8]), coefficients: (Dtype, Vec<usize>, &[u8])) -> Vec<u8> {
    let view =
        |(dtype, shape, bytes): (Dtype, Vec<usize>, &'static [u8])| TensorView::new(dtype, shape, bytes).unwrap();
    let leak = |(dtype, shape, bytes): (Dtype, Vec<usize>, &[u8])| (dtype, shape, &*bytes.to_vec().leak());
    let tensors = [("actions", view(leak(actions))), ("coefficients", view(leak(coefficients)))];
    safetensors::serialize(tensors, Some(HashMap::from([("refrain.plan".to_string(), json.to_string())]))).unwrap()
}

fn json_of(sites: &str) -> String {
    let run = r#"{"model":"m","sampler":"s","steps":1,"guidance_scale":1.0,"dtype":"f32"}"#;
    format!(r#"{{"version":1,"header":{{"run":{run},"model_value":"output","provenance":""}},"sites":{sites}}}"#)
}

#[test]
fn hostile_files_are_refused_with_one_line_that_says_why() {
    let one = json_of(r#"["0.attention"]"#);
    let weights = |first: f32| [first, 0.0, 0.0, 0.0].map(f32::to_le_bytes).concat();
    let zero = weights(0.0);
    let good_actions = || (Dtype::U8, vec![1, 1], &[1u8][..]);
    let good_weights = || (Dtype::F32, vec![1, 1, 4], &zero[..]);
    assert!(Plan::from_bytes(&forge(&one, good_actions(), good_weights())).is_ok());
    let mut huge = vec![0u8; 64];
    huge[..8].copy_from_slice(&(2u64 << 30).to_le_bytes());
    let nan = weights(f32::NAN);
    let wide = [0u8; 64];
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (Vec::new(), "shorter"),
        (huge, "header of 2147483648 bytes"),
        (b"\xff\xff\xff\xff\xff\xff\xff\xff".to_vec(), "header of"),
        (forge(&one, (Dtype::I8, vec![1, 1], &[1]), good_weights()), "dtype I8, expected U8"),
        (forge(&one, good_actions(), (Dtype::I32, vec![1, 1, 4], &zero)), "dtype I32, expected F32"),
        (forge(&one, (Dtype::U8, vec![1, 2], &[1, 1]), good_weights()), "shape [1, 2], expected [1, 1]"),
        (forge(&one, (Dtype::U8, vec![1], &[1]), good_weights()), "shape"),
        (forge(&one, good_actions(), (Dtype::F32, vec![1, 1, 16], &wide)), "shape [1, 1, 16]"),
        (forge(&one, (Dtype::U8, vec![1, 1], &[255]), good_weights()), "no such action"),
        (forge(&one, (Dtype::U8, vec![1, 1], &[2]), good_weights()), "reads 1 values"),
        (forge(&one, (Dtype::U8, vec![1, 1], &[4]), (Dtype::F32, vec![1, 1, 4], &nan)), "no such action"),
        (forge(&one, good_actions(), (Dtype::F32, vec![1, 1, 4], &nan)), "no such action"),
        (forge("{}", good_actions(), good_weights()), "header"),
        (forge(&one.replace("\"version\":1", "\"version\":7"), good_actions(), good_weights()), "version 7"),
        (forge(&one.replace("0.attention", "0.attention\\u0007"), good_actions(), good_weights()), "no site"),
        (forge(&one.replace("\"model\":\"m\"", "\"model\":\"m\",\"x\":1"), good_actions(), good_weights()), "unknown"),
        (forge(&one.replace("1.0", "1e999"), good_actions(), good_weights()), "header"),
        (
            forge(
                &json_of(r#"["0.attention","0.attention"]"#),
                (Dtype::U8, vec![1, 2], &[1, 1]),
                (Dtype::F32, vec![1, 2, 4], &wide[..32]),
            ),
            "twice",
        ),
        (
            forge(
                &json_of(r#"["1.attention","0.attention"]"#),
                (Dtype::U8, vec![1, 2], &[1, 1]),
                (Dtype::F32, vec![1, 2, 4], &wide[..32]),
            ),
            "not sorted",
        ),
    ];
    for (bytes, expected) in cases {
        let error = Plan::from_bytes(&bytes).unwrap_err().to_string();
        assert!(error.contains(expected), "expected '{expected}' in: {error}");
        assert!(!error.contains(char::is_control), "{error:?}");
    }
}

#[test]
fn overlapping_spans_of_a_forged_plan_do_no_harm() {
    let actions = vec![Planned::Compute, Planned::Reuse, Planned::Reuse, Planned::Compute];
    let spans = [Site::span(0..3), Site::span(1..2), Site::span(2..4), Site::span(3..9)];
    let columns: Vec<_> = spans.iter().map(|&site| (site, actions.clone())).collect();
    let header = PlanHeader { run: header(4), ..PlanHeader::default() };
    let plan = Plan::new(header, 4, &columns).unwrap();
    let mut cx = context(Box::new(Replay::new(plan)), 4);
    sample(&mut cx, &Toy::new(1, 4), 4, &[(Branch::GUIDED, 1)]);
    let spans: Vec<Site> =
        cx.executed_plan().sites().iter().copied().filter(|site| site.part.group() == "span").collect();
    assert_eq!(spans, [Site::span(0..3)]);
}

proptest! {
    #[test]
    fn random_plans_compile_to_what_they_execute(seed in 0u64..5000, blocks in 1usize..4, steps in 1usize..9) {
        let toy = Toy::new(seed, blocks);
        let branch = Branch::CONDITIONAL;
        let replay = Replay::new(random_plan(seed, &toy, steps, &[branch]));
        // A random forecast may collapse the output, which only a run can find out.
        let guard = Guard { warmup: seed as usize % 3, collapse_share: 0.0, ..Guard::default() };
        let compiled = Plan::compile(&mut replay.clone(), &guard, &header(steps), &sites(&toy, branch)).unwrap();
        let mut cx = Context::new(Box::new(replay), guard, header(steps)).unwrap();
        sample(&mut cx, &toy, steps, &[(branch, seed)]);
        prop_assert_eq!(compiled, cx.executed_plan());
    }

    #[test]
    fn random_plans_read_back(seed in 0u64..5000, blocks in 1usize..4, steps in 0usize..9) {
        let plan = random_plan(seed, &Toy::new(1, blocks), steps, &[Branch::GUIDED, Branch::chunk(3)]);
        let bytes = plan.to_bytes().unwrap();
        let read = Plan::from_bytes(&bytes).unwrap();
        prop_assert_eq!(&read.to_bytes().unwrap(), &bytes);
        prop_assert_eq!(read.hash(), plan.hash());
        prop_assert_eq!(read, plan);
    }

    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(Plan::from_bytes(&bytes).is_err());
    }

    #[test]
    fn mutated_files_never_panic(
        seed in 0u64..50,
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in any::<prop::sample::Index>(),
        shorten: bool,
    ) {
        let mut bytes = random_plan(seed, &Toy::new(1, 2), 4, &[Branch::GUIDED]).to_bytes().unwrap();
        for (place, value) in edits {
            let place = place.index(bytes.len());
            bytes[place] = value;
        }
        if shorten {
            bytes.truncate(cut.index(bytes.len()));
        }
        if let Ok(plan) = Plan::from_bytes(&bytes) {
            // What is accepted is a plan like any other: it is written back as it was read.
            prop_assert_eq!(Plan::from_bytes(&plan.to_bytes().unwrap()).unwrap(), plan);
        }
    }
}
