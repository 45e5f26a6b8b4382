//! Echo and stream on tokio: a current-thread runtime at each end, kept busy by a task that yields,
//! so that it polls and does not sleep.

use std::io;
use std::net::TcpStream as StdStream;
use std::thread;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

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
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    runtime.block_on(async {
        tokio::select! {
            done = work => done,
            () = async { loop { tokio::task::yield_now().await } } => unreachable!(),
        }
    })
}

async fn serve(stream: StdStream, task: Task) -> io::Result<()> {
    let mut stream = TcpStream::from_std(stream)?;
    let mut bytes = vec![0; if task == Task::Echo { PING_BYTES } else { MESSAGE_BYTES }];
    while stream.read_exact(&mut bytes).await.is_ok() {
        match task {
            Task::Echo => stream.write_all(&bytes).await?,
            Task::Stream => read_lines(&bytes),
        }
    }
    if task == Task::Stream { stream.write_all(&[1]).await } else { Ok(()) }
}

async fn ask(stream: StdStream, task: Task, phase: Duration) -> io::Result<Figures> {
    let mut stream = TcpStream::from_std(stream)?;
    let start = Instant::now();
    match task {
        Task::Echo => {
            let (mut bytes, mut trips) = ([1; PING_BYTES], Vec::new());
            while start.elapsed() < phase {
                let asked_at = Instant::now();
                stream.write_all(&bytes).await?;
                stream.read_exact(&mut bytes).await?;
                trips.push(asked_at.elapsed());
            }
            Ok(echo_figures(trips))
        }
        Task::Stream => {
            let (message, mut messages) = (vec![1; MESSAGE_BYTES], 0);
            while start.elapsed() < phase {
                stream.write_all(&message).await?;
                messages += 1;
            }
            stream.shutdown().await?;
            stream.read_exact(&mut [0]).await?;
            Ok(stream_figures(messages, start.elapsed()))
        }
    }
}
