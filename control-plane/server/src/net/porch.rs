//! The porch: a thread of its own for connections on which nobody was let in yet, or somebody takes more than they may. It stands
//! back behind those that serve.
//!
//! ```text
//!                  let in
//!   accept --> Porch ----> Inside: where the server runs
//!                ^            |
//!                +------------+  refused at a limit of their own
//! ```
//! So whoever has no credential takes turns with others who have none, and gets what those leave who have one; and so does, for a
//! moment, who has used up what they may take. Invariant: a connection and what was begun for it on the porch go where they belong
//! at their next turn; what was begun inside ends there.

use std::cell::Cell;
use std::future::Future;
use std::io;
use std::os::fd::AsFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use hyper::rt::Executor;
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio_rustls::server::TlsStream;
use tracing::debug;

use super::background::{Background, give_way};
use super::stranger::Standing;

/// How far the thread stands back.
const NICENESS: i32 = 10;

thread_local! {
    static IS_HERE: Cell<bool> = const { Cell::new(false) };
}

/// Whether this is the thread of a porch.
pub(super) fn is_here() -> bool {
    IS_HERE.get()
}

/// Starts the thread.
///
/// # Errors
/// When the system has none to give.
pub fn start() -> io::Result<Background> {
    Background::start("porch", NICENESS, || IS_HERE.set(true))
}

/// Starts the tasks of one connection where they belong.
#[derive(Clone, Debug)]
pub(super) struct Tasks {
    pub(super) standing: Arc<Standing>,
    pub(super) porch: Handle,
    pub(super) inside: Handle,
}

impl<F: Future<Output: Send> + Send + 'static> Executor<F> for Tasks {
    fn execute(&self, task: F) {
        if is_here() {
            self.place(Placed { task: Some(Box::pin(task)), tasks: self.clone() });
        } else {
            drop(self.inside.spawn(task));
        }
    }
}

impl Tasks {
    /// Starts a task where the connection stands now.
    fn place(&self, task: impl Future<Output = ()> + Send + 'static) {
        let place = if self.standing.is_known() { &self.inside } else { &self.porch };
        drop(place.spawn(task));
    }
}

/// A task that goes where its connection belongs.
struct Placed<F> {
    task: Option<Pin<Box<F>>>,
    tasks: Tasks,
}

impl<F: Future<Output: Send> + Send + 'static> Future for Placed<F> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        give_way();
        let Placed { task, tasks } = &mut *self;
        if tasks.standing.is_known() == is_here()
            && let Some(task) = task.take()
        {
            tasks.place(Placed { task: Some(task), tasks: tasks.clone() });
        }
        match task {
            Some(task) => task.as_mut().poll(context).map(drop),
            None => Poll::Ready(()),
        }
    }
}

/// A socket that can be served by another thread than it was begun by.
pub(super) trait Moves {
    /// Has the thread that runs this told of what comes.
    fn come_here(&mut self);
}

impl Moves for TcpStream {
    fn come_here(&mut self) {
        let moved = self.as_fd().try_clone_to_owned().map(std::net::TcpStream::from).and_then(TcpStream::from_std);
        match moved {
            Ok(moved) => *self = moved,
            // It is served all the same: the other thread passes on what comes.
            Err(error) => debug!(%error, "a connection is still waited for elsewhere"),
        }
    }
}

impl<S: Moves> Moves for TlsStream<S> {
    fn come_here(&mut self) {
        self.get_mut().0.come_here();
    }
}

#[cfg(test)]
impl Moves for tokio::io::DuplexStream {
    fn come_here(&mut self) {}
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio::sync::mpsc;

    use super::*;

    /// Runs `task` on a porch, as the first of a connection.
    fn begin(porch: &Background, standing: &Arc<Standing>, task: impl Future<Output = ()> + Send + 'static) {
        let (standing, porch) = (Arc::clone(standing), porch.handle().clone());
        let tasks = Tasks { standing, porch: porch.clone(), inside: Handle::current() };
        porch.spawn(async move { tasks.execute(task) });
    }

    #[tokio::test]
    async fn a_task_goes_inside_when_somebody_is_let_in_and_comes_back_when_they_are_set_back() {
        let (porch, standing) = (start().unwrap(), Arc::new(Standing::default()));
        let (say, mut said) = mpsc::unbounded_channel();
        let of_task = Arc::clone(&standing);
        begin(&porch, &standing, async move {
            let say = async || {
                say.send(is_here()).unwrap();
                tokio::task::yield_now().await;
            };
            say().await;
            say().await;
            of_task.let_in();
            tokio::task::yield_now().await;
            say().await;
            of_task.set_back();
            tokio::task::yield_now().await;
            say().await;
        });
        let mut places = Vec::new();
        while let Some(place) = said.recv().await {
            places.push(place);
        }
        assert_eq!(places, [true, true, false, true], "it goes on to its end once");
    }

    #[tokio::test]
    async fn who_is_known_from_the_start_is_inside_from_the_start() {
        let (porch, standing) = (start().unwrap(), Arc::new(Standing::default()));
        standing.let_in();
        let (say, mut said) = mpsc::unbounded_channel();
        begin(&porch, &standing, async move { say.send(is_here()).unwrap() });
        assert_eq!(said.recv().await, Some(false));
    }

    #[tokio::test]
    async fn a_socket_that_came_here_hears_what_comes_without_the_porch() {
        let porch = start().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut peer = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (accepted, _) = listener.accept().await.unwrap();
        let accepted = accepted.into_std().unwrap();
        let registered = porch.handle().spawn(async move {
            let mut stream = TcpStream::from_std(accepted).unwrap();
            stream.read_u8().await.unwrap();
            stream
        });
        peer.write_u8(1).await.unwrap();
        let mut stream = registered.await.unwrap();
        stream.come_here();
        drop(porch);
        // Time for the thread to be gone, and with it all that it passed on.
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        peer.write_u8(2).await.unwrap();
        assert_eq!(stream.read_u8().await.unwrap(), 2);
        stream.write_u8(3).await.unwrap();
        assert_eq!(peer.read_u8().await.unwrap(), 3);
    }
}
