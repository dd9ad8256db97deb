//! Questions of checkers that need nothing but sockets: a port, and another machine's module.

mod health;
mod tcp;

pub use health::module;
pub use tcp::connects;
