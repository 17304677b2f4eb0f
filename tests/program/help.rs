//! Help, manual, completions, and what a wrong call says.

use crate::support::Folder;

#[test]
fn help_is_what_it_was() {
    let folder = Folder::new();
    insta::assert_snapshot!("help", folder.run(&["--help"]).succeeded().text());
    insta::assert_snapshot!("help-gen-image", folder.run(&["gen", "image", "-h"]).succeeded().text());
    insta::assert_snapshot!("help-bench-cache", folder.run(&["bench", "cache", "-h"]).succeeded().text());
}

#[test]
fn manual_and_completions_know_the_flags() {
    let folder = Folder::new();
    assert!(folder.run(&["man", "gen", "image"]).succeeded().text().contains("sampling\\-method"));
    assert!(folder.run(&["man"]).succeeded().text().contains(".TH"));
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        assert!(folder.run(&["completions", shell]).succeeded().text().contains("sampling-method"), "{shell}");
    }
    folder.run(&["man", "gen", "film"]).refused(2);
}

#[test]
fn a_wrong_call_is_one_line_with_advice() {
    let folder = Folder::new();
    for (arguments, expected) in [
        (&["gen", "image", "-p", "x", "--step", "3"][..], "--steps"),
        (&["gen", "image", "-p", "x", "--dtype", "f64"], "f32"),
        (&["gen", "image", "-p", "x", "--steps", "many"], "--steps"),
        (&["gen", "picture"], "picture"),
        (&["inspect"], "MODEL"),
    ] {
        let outcome = folder.run(arguments);
        let line = outcome.refused(2);
        assert!(line.contains(expected), "{line}");
    }
    assert_eq!(folder.run(&[]).code, 2);
}
