//! Echo and stream on glommio: an executor at each end, which spins before it parks for longer than
//! any gap.

use std::io;
use std::net::{Shutdown, SocketAddr};
use std::time::{Duration, Instant};

use futures_lite::{AsyncReadExt, AsyncWriteExt};
use glommio::net::{TcpListener, TcpStream};
use glommio::{LocalExecutorBuilder, Placement};

use crate::work::{
    self, Figures, MESSAGE_BYTES, PING_BYTES, Task, echo_figures, read_lines, stream_figures,
};

/// How long an executor polls before it sleeps.
const SPIN: Duration = Duration::from_millis(100);

pub(crate) fn measure(phase: Duration) -> Result<Figures, String> {
    let both = [Task::Echo, Task::Stream].map(|task| run(task, phase));
    let figures = both.into_iter().collect::<Result<Vec<_>, String>>();
    figures.map(|figures| figures.concat())
}

fn run(task: Task, phase: Duration) -> Result<Figures, String> {
    let (server_cpu, worker_cpu) = work::processors();
    let (told, address) = std::sync::mpsc::sync_channel(1);
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let far = LocalExecutorBuilder::new(Placement::Fixed(server_cpu))
        .spin_before_park(SPIN)
        .spawn(move || async move {
            let listener = TcpListener::bind("127.0.0.1:0")?;
            let _ = told.send(listener.local_addr()?);
            serve(listener.accept().await?, task).await
        })
        .map_err(|error| text(&error))?;
    let address = address.recv_timeout(work::PATIENCE).map_err(|error| text(&error))?;
    let near = LocalExecutorBuilder::new(Placement::Fixed(worker_cpu))
        .spin_before_park(SPIN)
        .spawn(move || ask(address, task, phase))
        .map_err(|error| text(&error))?;
    let asked = near.join().map_err(|error| text(&error))?.map_err(|error| text(&error))?;
    far.join().map_err(|error| text(&error))?.map_err(|error| text(&error))?;
    Ok(asked)
}

async fn serve(mut stream: TcpStream, task: Task) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut bytes = vec![0; if task == Task::Echo { PING_BYTES } else { MESSAGE_BYTES }];
    while stream.read_exact(&mut bytes).await.is_ok() {
        match task {
            Task::Echo => stream.write_all(&bytes).await?,
            Task::Stream => read_lines(&bytes),
        }
    }
    if task == Task::Stream { stream.write_all(&[1]).await } else { Ok(()) }
}

async fn ask(address: SocketAddr, task: Task, phase: Duration) -> io::Result<Figures> {
    let mut stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
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
            stream.shutdown(Shutdown::Write).await?;
            stream.read_exact(&mut [0]).await?;
            Ok(stream_figures(messages, start.elapsed()))
        }
    }
}
