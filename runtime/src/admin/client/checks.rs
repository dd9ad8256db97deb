//! The client's requests about checkers: resources, maintenance switches, classes, loop guard.

use havre_core::checks::{
    record::{LoopStatus, Switch},
    resource::{ResourceName, ResourceState},
};
use hyper::Method;

use super::{Client, ClientError, read};
use crate::admin::api::checks::LoopWord;

impl Client {
    /// Gives an order in the name of a detector, so that the loop guard counts it.
    ///
    /// # Errors
    /// The daemon refuses, or there is no answer.
    pub async fn order_by(
        &self,
        module: &str,
        order: &str,
        detector: &str,
    ) -> Result<(), ClientError> {
        let path = format!("/api/v1/modules/{module}/{order}?by={}", escaped(detector));
        self.request(Method::POST, &path).await.map(drop)
    }

    /// Sets a resource; `(by, history)` say who does so (`None`: the caller), and whether the
    /// change is kept in the history.
    ///
    /// # Errors
    /// The daemon refuses, or there is no answer.
    pub async fn set_resource(
        &self,
        module: &str,
        resource: &ResourceName,
        state: ResourceState,
        (by, history): (Option<&str>, bool),
    ) -> Result<(), ClientError> {
        let name = escaped(resource.as_str());
        let by = named("&by=", by);
        let path = format!(
            "/api/v1/modules/{module}/resource?name={name}&state={state}&history={history}{by}"
        );
        self.request(Method::POST, &path).await.map(drop)
    }

    /// Turns a maintenance switch.
    ///
    /// # Errors
    /// The daemon refuses, or there is no answer.
    pub async fn switch(&self, module: &str, switch: Switch, on: bool) -> Result<(), ClientError> {
        let path = format!("/api/v1/modules/{module}/switch?name={}&on={on}", switch.word());
        self.request(Method::POST, &path).await.map(drop)
    }

    /// Watches a class, or not.
    ///
    /// # Errors
    /// The module has no such class, or there is no answer.
    pub async fn class(&self, module: &str, class: &str, on: bool) -> Result<(), ClientError> {
        let path = format!("/api/v1/modules/{module}/class?name={}&on={on}", escaped(class));
        self.request(Method::POST, &path).await.map(drop)
    }

    /// Asks or changes the loop guard; `by` says who counts a detection (`None`: the caller).
    ///
    /// # Errors
    /// The daemon refuses, or there is no answer.
    pub async fn loop_guard(
        &self,
        module: &str,
        verb: LoopWord,
        by: Option<&str>,
    ) -> Result<LoopStatus, ClientError> {
        let by = named("&by=", by);
        let path = format!("/api/v1/modules/{module}/loop?verb={}{by}", verb.word());
        read(&self.request(Method::POST, &path).await?)
    }
}

fn named(key: &str, value: Option<&str>) -> String {
    value.map_or(String::new(), |value| format!("{key}{}", escaped(value)))
}

/// A text as it stands in the query of an address (RFC 3986, section 2.1).
fn escaped(text: &str) -> String {
    let escape = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
            char::from(byte).to_string()
        }
        _ => format!("%{byte:02X}"),
    };
    text.bytes().map(escape).collect()
}
