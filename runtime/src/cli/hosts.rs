//! `-H`: one command on several nodes.

use std::process::ExitCode;

use anyhow::{Result, bail};

use super::{FAILURE, print};

/// The nodes that `text` means: `*`, or names separated by commas.
///
/// # Errors
/// A name is not one of `known`.
pub(super) fn chosen(text: &str, known: &[String]) -> Result<Vec<String>> {
    if text.trim() == "*" {
        return Ok(known.to_vec());
    }
    let mut chosen = Vec::new();
    for name in text.split(',').map(str::trim).filter(|name| !name.is_empty()) {
        if !known.iter().any(|node| node == name) {
            bail!("-H: \"{name}\" is not a node of this cluster ({})", known.join(", "));
        }
        if !chosen.iter().any(|node| node == name) {
            chosen.push(name.to_owned());
        }
    }
    if chosen.is_empty() {
        bail!("-H names no node: use \"*\" for all, or some of {}", known.join(", "));
    }
    Ok(chosen)
}

/// Does it on each node, one after the other, under the node's name if there are several. One
/// that fails does not keep the others from being asked. Succeeds if all did.
pub(super) fn on_each(
    nodes: &[String],
    mut run: impl FnMut(&str) -> Result<ExitCode>,
) -> Result<ExitCode> {
    if let [only] = nodes {
        return run(only);
    }
    let mut worst = ExitCode::SUCCESS;
    for node in nodes {
        print(&format!("-- {node}\n"))?;
        match run(node) {
            Ok(code) if code == ExitCode::SUCCESS => {}
            Ok(code) => worst = code,
            Err(error) => {
                eprintln!("havre: {node}: {error:#}");
                worst = ExitCode::from(FAILURE);
            }
        }
    }
    Ok(worst)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known() -> Vec<String> {
        vec!["node1".to_owned(), "node2".to_owned()]
    }

    #[test]
    fn a_star_means_all_and_a_list_means_its_names() {
        assert_eq!(chosen("*", &known()).expect("all"), known());
        assert_eq!(chosen(" node2 , node2", &known()).expect("one"), ["node2"]);
        let error = chosen("node1,node9", &known()).expect_err("no such node");
        assert!(error.to_string().contains("node9") && error.to_string().contains("node2"));
        assert!(chosen(",", &known()).is_err());
    }

    #[test]
    fn a_node_that_fails_does_not_keep_the_others_from_being_asked() {
        let mut asked = Vec::new();
        let code = on_each(&known(), |node| {
            asked.push(node.to_owned());
            if node == "node1" { bail!("unreachable") } else { Ok(ExitCode::SUCCESS) }
        });
        assert_eq!(code.expect("reported"), ExitCode::from(FAILURE));
        assert_eq!(asked, known());
    }
}
