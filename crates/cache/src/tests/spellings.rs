//! How policies are spelled on the command line.

use proptest::prelude::*;

use super::toy::SKIPPING;
use crate::policies::{descriptors, help, parse, parse_with_options};

#[test]
fn canonical_spellings_name_what_differs_from_the_defaults() {
    for (text, canonical) in [
        ("off", "off"),
        (" interval ", "interval"),
        ("interval:n=2", "interval"),
        ("interval:3", "interval:n=3"),
        ("interval:n=3,attention=3,feed-forward=1", "interval:n=3+feed-forward=1"),
        ("mask:1,1,0,1", "mask:steps=1101"),
        ("mask:steps=1101+keep=residual", "mask:steps=1101+keep=residual"),
        ("mask:medium", "mask"),
        ("mask:fast", "mask:steps=fast"),
        ("dbcache:threshold=0.1+warmup=2", "dbcache"),
        ("dbcache:0.2+fn=2", "dbcache:threshold=0.2+fn=2"),
        ("dbcache:max_cached=none,mask=1,0,1,warmup=3", "dbcache:warmup=3+mask=101"),
        ("deepcache:n=3,branch=0,power=1.4", "deepcache"),
        ("deepcache:5+branch=2+center=15", "deepcache:n=5+branch=2+center=15"),
        ("taylor:n=2+order=1", "taylor"),
        ("taylor:order=2,basis=newton", "taylor:order=2+basis=newton"),
        ("easycache:threshold=0.05", "easycache:threshold=0.05"),
        ("easycache:keep=output", "easycache:keep=output"),
        ("motion:n=2,spike=0.3", "motion:spike=0.3"),
    ] {
        assert_eq!(parse(text).unwrap().to_string(), canonical, "{text}");
    }
}

#[test]
fn options_given_apart_read_the_same() {
    for (name, options, canonical) in [
        ("taylor", "n=2,order=2", "taylor:order=2"),
        ("interval", "", "interval"),
        ("interval:n=3", "feed-forward=1", "interval:n=3+feed-forward=1"),
        ("interval:n=3", "n=4", "interval:n=4"),
        ("mask", "1,0,1", "mask:steps=101"),
        ("off", "", "off"),
    ] {
        assert_eq!(parse_with_options(name, options).unwrap().to_string(), canonical, "{name} {options}");
    }
}

#[test]
fn mistakes_get_one_line_that_names_what_there_is() {
    for (text, expected) in [
        (
            "",
            "unknown cache policy ''; there are: off, interval, mask, dbcache, deepcache, taylor, easycache, motion, plan",
        ),
        ("teacache", "unknown cache policy 'teacache'; there are: off,"),
        ("interval:every=2", "cache policy 'interval' has no option 'every'; it has: n, attention,"),
        ("off:n=2", "cache policy 'off' has no option 'n'; it has: none"),
        ("interval:n=0", "option 'n' is '0', but must be a number from 1 to 10000"),
        ("interval:n=two", "option 'n' is 'two'"),
        ("dbcache:threshold=nan", "'threshold' is 'nan', but must be a number from 0"),
        ("dbcache:max_cached=-1", "'max_cached' is '-1', but must be none or a number"),
        ("taylor:order=3", "'order' is '3', but must be a number from 0 to 2"),
        ("taylor:basis=fourier", "but must be one of ladder, newton"),
        ("mask:1,2", "'steps' is '1,2', but must be digits 1 and 0, one per step, or one of slow, medium, fast, ultra"),
        ("plan", "as in plan:fox.plan.safetensors"),
        ("no-such.plan.safetensors", "no-such.plan.safetensors: "),
    ] {
        let error = parse(text).unwrap_err().to_string();
        assert!(error.contains(expected), "{text}: {error}");
        assert_eq!(error.lines().count(), 1);
    }
}

#[test]
fn help_names_every_policy_and_option() {
    let text = help();
    for descriptor in descriptors() {
        assert!(text.contains(&format!("{}: ", descriptor.name)));
        assert!(descriptor.options.iter().all(|option| text.contains(option.key) && !option.help.is_empty()));
    }
    insta::assert_snapshot!(text);
}

#[test]
fn defaults_in_the_help_are_the_defaults() {
    // Giving every default as an option changes nothing.
    for descriptor in descriptors() {
        for option in descriptor.options {
            if option.default.parse::<f32>().is_ok() {
                let name = descriptor.name;
                let spec = parse(&format!("{name}:{}={}", option.key, option.default)).unwrap();
                assert_eq!(spec.to_string(), name, "{}", option.key);
            }
        }
    }
}

proptest! {
    #[test]
    fn what_parses_reads_back(text in "(interval|mask|dbcache|deepcache|taylor|easycache|off|foo)(:(n=|order=|threshold=|fn=|steps=)?[0-9a-z.]{0,6}){0,1}([+,](warmup|bn|mask|keep)=[0-9a-z,]{0,5}){0,2}") {
        if let Ok(spec) = parse(&text) {
            let again = parse(&spec.to_string()).unwrap();
            prop_assert_eq!(again.to_string(), spec.to_string());
            prop_assert_eq!(spec.policy().name(), spec.to_string());
        }
    }
}

#[test]
fn the_list_of_the_invariants_is_canonical_enough_to_read_back() {
    for spelling in SKIPPING {
        let spec = parse(spelling).unwrap();
        assert_eq!(parse(&spec.to_string()).unwrap().to_string(), spec.to_string());
    }
}
