//! How everything but the sockets reaches an agent.

use havre_core::{
    checks::probe::Finding,
    effect::{Answer, Command, VolumeNews},
    farm::table::FilterNews,
    ids::{CheckerId, ModuleId},
};
use thiserror::Error;
use tokio::sync::{mpsc, oneshot, watch};

/// The agent has ended: the daemon is stopping.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the daemon is stopping")]
pub struct AgentGone;

/// What is put into an inbox.
#[derive(Debug)]
pub(super) enum Letter {
    Ask { command: Command, answer: oneshot::Sender<Answer> },
    Volume { module: ModuleId, news: VolumeNews },
    Filter { module: ModuleId, news: FilterNews },
    Checked { module: ModuleId, checker: CheckerId, finding: Finding },
    Stop,
}

/// The sending end of an agent's inbox. Cheap to clone; usable from any thread.
///
/// The queue has no bound of its own: questions are bounded by the connections of the API, news
/// by the data paths, which send progress at most once per second.
#[derive(Debug, Clone)]
pub struct Inbox {
    sender: mpsc::UnboundedSender<Letter>,
    told: watch::Receiver<u64>,
}

/// The agent's end of its inbox.
#[derive(Debug)]
pub struct Letters {
    receiver: mpsc::UnboundedReceiver<Letter>,
    told: watch::Sender<u64>,
}

/// Makes the two ends of an inbox.
pub fn inbox() -> (Inbox, Letters) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let (tells, told) = watch::channel(0);
    (Inbox { sender, told }, Letters { receiver, told: tells })
}

impl Inbox {
    /// Asks the node something, and waits for its answer.
    ///
    /// # Errors
    /// The agent has ended, or ended before it answered.
    pub async fn ask(&self, command: Command) -> Result<Answer, AgentGone> {
        let (answer, answered) = oneshot::channel();
        self.sender.send(Letter::Ask { command, answer }).map_err(|_| AgentGone)?;
        answered.await.map_err(|_| AgentGone)
    }

    /// Passes on news of a module's data path. Ignored when the agent has ended.
    pub fn volume_news(&self, module: ModuleId, news: VolumeNews) {
        let _ = self.sender.send(Letter::Volume { module, news });
    }

    /// Returns when the node has told news that this clone has not waited for yet.
    ///
    /// # Errors
    /// The agent has ended.
    pub async fn news(&mut self) -> Result<(), AgentGone> {
        self.told.changed().await.map_err(|_| AgentGone)
    }

    /// Passes on news of a module's packet filter. Ignored when the agent has ended.
    pub fn filter_news(&self, module: ModuleId, news: FilterNews) {
        let _ = self.sender.send(Letter::Filter { module, news });
    }

    /// Passes on what a watch of a checker found. Ignored when the agent has ended.
    pub fn checked(&self, module: ModuleId, checker: CheckerId, finding: Finding) {
        let _ = self.sender.send(Letter::Checked { module, checker, finding });
    }

    /// Ends the agent, without stopping its modules.
    pub fn stop(&self) {
        let _ = self.sender.send(Letter::Stop);
    }
}

impl Letters {
    pub(super) async fn next(&mut self) -> Option<Letter> {
        self.receiver.recv().await
    }

    /// Wakes those who wait for news.
    pub(super) fn tell(&self) {
        self.told.send_modify(|count| *count = count.wrapping_add(1));
    }

    pub(super) fn try_next(&mut self) -> Option<Letter> {
        self.receiver.try_recv().ok()
    }
}
