//! Echo and stream on monoio: a thread with its own io_uring at each end, kept busy by a task that
//! yields, so that it polls and does not sleep.

use std::io;
use std::net::TcpStream as StdStream;
use std::thread;
use std::time::{Duration, Instant};

use monoio::io::{AsyncReadRentExt, AsyncWriteRent, AsyncWriteRentExt};
use monoio::net::TcpStream;
use monoio::{IoUringDriver, RuntimeBuilder};

use crate::work::{
    self, Figures, MESSAGE_BYTES, PING_BYTES, Task, echo_figures, read_lines, stream_figures,
};

pub(crate) fn measure(phase: Duration) -> Result<Figures, String> {
    let both = [Task::Echo, Task::Stream].map(|task| run(task, phase));
    let figures = both.into_iter().collect::<io::Result<Vec<_>>>();
    figures.map(|figures| figures.concat()).map_err(|error| error.to_string())
}

fn run(task: Task, phase: Duration) -> io::Result<Figures> {
    let (near, far) = work::tcp_pair()?;
    near.set_nonblocking(false)?;
    far.set_nonblocking(false)?;
    let (server_cpu, worker_cpu) = work::processors();
    thread::scope(|scope| {
        scope.spawn(move || {
            work::pin(server_cpu);
            busy(serve(far, task))
        });
        let near = scope.spawn(move || {
            work::pin(worker_cpu);
            busy(ask(near, task, phase))
        });
        near.join().map_err(|_| io::Error::other("a thread panicked"))?
    })
}

fn busy<T>(work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    let mut runtime = RuntimeBuilder::<IoUringDriver>::new().build()?;
    runtime.block_on(async {
        // A task of its own: a main future that is always ready would keep the ring from its turn.
        monoio::spawn(yield_for_ever());
        work.await
    })
}

async fn yield_for_ever() {
    std::future::poll_fn(|context| {
        context.waker().wake_by_ref();
        std::task::Poll::<()>::Pending
    })
    .await;
}

async fn serve(stream: StdStream, task: Task) -> io::Result<()> {
    let mut stream = TcpStream::from_std(stream)?;
    let mut bytes = vec![0; if task == Task::Echo { PING_BYTES } else { MESSAGE_BYTES }];
    loop {
        let (read, filled) = stream.read_exact(bytes).await;
        bytes = filled;
        if read.is_err() {
            break;
        }
        match task {
            Task::Echo => {
                let (written, sent) = stream.write_all(bytes).await;
                bytes = sent;
                written?;
            }
            Task::Stream => read_lines(&bytes),
        }
    }
    if task == Task::Stream { stream.write_all(vec![1]).await.0.map(drop) } else { Ok(()) }
}

async fn ask(stream: StdStream, task: Task, phase: Duration) -> io::Result<Figures> {
    let mut stream = TcpStream::from_std(stream)?;
    let start = Instant::now();
    match task {
        Task::Echo => {
            let (mut bytes, mut trips) = (vec![1; PING_BYTES], Vec::new());
            while start.elapsed() < phase {
                let asked_at = Instant::now();
                let (written, sent) = stream.write_all(bytes).await;
                written?;
                let (read, filled) = stream.read_exact(sent).await;
                read?;
                bytes = filled;
                trips.push(asked_at.elapsed());
            }
            Ok(echo_figures(trips))
        }
        Task::Stream => {
            let (mut message, mut messages) = (vec![1; MESSAGE_BYTES], 0);
            while start.elapsed() < phase {
                let (written, sent) = stream.write_all(message).await;
                written?;
                message = sent;
                messages += 1;
            }
            stream.shutdown().await?;
            stream.read_exact(vec![0]).await.0?;
            Ok(stream_figures(messages, start.elapsed()))
        }
    }
}
