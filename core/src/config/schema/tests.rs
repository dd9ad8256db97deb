//! The table keeps its own promises.

use super::*;
use crate::config::value;

fn walk(spec: &'static ElementSpec, depth: usize, visit: &mut impl FnMut(&'static ElementSpec)) {
    assert!(depth < 16, "<{}> contains itself", spec.name);
    visit(spec);
    for child in spec.children {
        walk(child, depth + 1, visit);
    }
}

#[test]
fn every_default_is_a_valid_value_of_its_attribute() {
    for top in [&SAFE, &CLUSTER] {
        walk(top, 0, &mut |spec| {
            for attribute in spec.attributes {
                if let Presence::Default(value) = attribute.presence {
                    let fault = value::fault(attribute.name, &attribute.kind, value);
                    assert_eq!(fault, None, "<{} {}>", spec.name, attribute.name);
                }
            }
        });
    }
}

#[test]
fn names_are_unique_and_everything_is_explained_in_a_sentence() {
    for top in [&SAFE, &CLUSTER] {
        walk(top, 0, &mut |spec| {
            assert!(spec.about.ends_with('.'), "<{}>", spec.name);
            for (number, attribute) in spec.attributes.iter().enumerate() {
                assert!(attribute.about.ends_with('.'), "<{} {}>", spec.name, attribute.name);
                let later = &spec.attributes[number + 1..];
                assert!(later.iter().all(|a| a.name != attribute.name), "{}", attribute.name);
            }
            for (number, child) in spec.children.iter().enumerate() {
                assert!(spec.children[number + 1..].iter().all(|c| c.name != child.name));
            }
        });
    }
}
