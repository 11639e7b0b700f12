//! One round of the monitor: wait for events, serve clients, move output.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
    time::{Duration, Instant},
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::{
    super::{
        client::Client,
        health::Health,
        log::Stream,
        protocol::{PAYLOAD_LIMIT, Reply, Request, StreamSet, stream_frame},
        socket,
        spec::Stdin,
        state::Event,
        streams::Read,
    },
    Child, Monitor, REST_READS,
};
use crate::Target;

impl Monitor<'_> {
    /// Waits for one round of events and handles them.
    pub(super) fn turn(
        &mut self,
        mut child: Option<&mut Child>,
        deadline: Option<Instant>,
    ) -> io::Result<()> {
        let ready = self.wait(child.as_deref(), deadline)?;
        if ready.listener {
            self.accept();
        }
        for index in ready.clients.into_iter().rev() {
            self.serve(index, child.as_deref_mut());
        }
        if let Some(child) = child {
            child.channels.flush_input();
            for stream in ready.outputs {
                self.pump(child, stream);
            }
            if let Some(resolver) = child.resolver.as_mut().filter(|_| ready.resolver) {
                resolver.turn();
            }
            if child.ended.is_none()
                && let Some(status) = child.process.try_wait()?
            {
                child.ended = Some((status, Instant::now()));
                child.health = None;
            }
            self.check_health(child);
        }
        self.flush_clients();
        Ok(())
    }

    fn wait(&self, child: Option<&Child>, deadline: Option<Instant>) -> io::Result<Ready> {
        let mut sources = Vec::with_capacity(self.clients.len() + 5);
        let mut fds = Vec::with_capacity(self.clients.len() + 5);
        let mut add = |source, fd, flags| {
            sources.push(source);
            fds.push(PollFd::from_borrowed_fd(fd, flags));
        };
        if let Some(listener) = &self.listener {
            add(Source::Listener, listener.as_fd(), PollFlags::IN);
        }
        let input_is_full = child.is_some_and(|child| child.channels.input_is_full());
        for (index, client) in self.clients.iter().enumerate() {
            let mut flags = PollFlags::empty();
            flags.set(PollFlags::OUT, client.has_output());
            let writes = client.streams.contains(StreamSet::STDIN);
            flags.set(PollFlags::IN, !(writes && input_is_full));
            add(Source::Client(index), client.as_fd(), flags);
        }
        if let Some(child) = child {
            self.add_child(child, &mut add);
        }
        let timeout =
            deadline.map(|deadline| timespec(deadline.saturating_duration_since(Instant::now())));
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        let mut ready = Ready::default();
        for (source, _) in sources.into_iter().zip(&fds).filter(|(_, fd)| !fd.revents().is_empty())
        {
            match source {
                Source::Listener => ready.listener = true,
                Source::Client(index) => ready.clients.push(index),
                Source::Output(stream) => ready.outputs.push(stream),
                Source::Resolver => ready.resolver = true,
                Source::Other => {}
            }
        }
        Ok(ready)
    }

    fn add_child<'c>(
        &self,
        child: &'c Child,
        add: &mut impl FnMut(Source, BorrowedFd<'c>, PollFlags),
    ) {
        if child.ended.is_none() {
            add(Source::Other, child.process.as_fd(), PollFlags::IN);
        }
        if let Some(fd) = child.channels.pending_input() {
            add(Source::Other, fd, PollFlags::OUT);
        }
        if let Some(resolver) = &child.resolver {
            add(Source::Resolver, resolver.as_fd(), PollFlags::IN);
        }
        for fd in child.health.iter().flat_map(Health::descriptors) {
            add(Source::Other, fd, PollFlags::IN);
        }
        // A client that does not read holds up the container, as a pipe would.
        if !self.clients.iter().any(Client::is_full) {
            for stream in [Stream::Stdout, Stream::Stderr] {
                if let Some(fd) = child.channels.output(stream) {
                    add(Source::Output(stream), fd, PollFlags::IN);
                }
            }
        }
    }

    fn accept(&mut self) {
        let Some(listener) = &self.listener else { return };
        match socket::accept(listener) {
            Ok(Some(socket)) => self.clients.push(Client::new(socket)),
            Ok(None) => {}
            Err(error) => tracing::warn!(%error, "cannot accept a client"),
        }
    }

    /// Handles everything that clients have sent so far, without a container.
    pub(super) fn serve_clients_now(&mut self) {
        for index in (0..self.clients.len()).rev() {
            self.serve(index, None);
        }
    }

    fn serve(&mut self, index: usize, mut child: Option<&mut Child>) {
        let Ok(requests) = self.clients[index].receive() else {
            return self.leave(index, child);
        };
        for request in requests {
            self.answer(index, request, child.as_deref_mut());
        }
    }

    fn answer(&mut self, index: usize, request: Request, child: Option<&mut Child>) {
        let client = &mut self.clients[index];
        let writes = client.streams.contains(StreamSet::STDIN);
        match request {
            Request::Attach(streams) => {
                client.streams = streams;
                client.reply(&Reply::Attached);
            }
            Request::Stop => self.stop = true,
            Request::Settle => client.settles = true,
            Request::Unknown(kind) => client.reply(&Reply::Unknown(kind)),
            Request::Stdin(bytes) if writes => {
                if let Some(child) = child {
                    child.channels.input(&bytes);
                }
            }
            Request::StdinEnd if writes => self.end_input(child),
            Request::Resize(rows, columns) => {
                if let Some(child) = child {
                    child.channels.resize(rows, columns);
                }
            }
            Request::Stdin(_) | Request::StdinEnd => {}
        }
    }

    fn end_input(&self, child: Option<&mut Child>) {
        if let Some(child) = child.filter(|_| self.spec.stdio.stdin == Stdin::Once) {
            child.channels.end_input();
        }
    }

    /// Forgets a client that is gone.
    fn leave(&mut self, index: usize, child: Option<&mut Child>) {
        let client = self.clients.remove(index);
        if client.streams.contains(StreamSet::STDIN) {
            self.end_input(child);
        }
    }

    /// Moves what lies in the pipes now, whoever reads slowly: nobody waits for their ends any more.
    pub(super) fn pump_rest(&mut self, child: &mut Child) {
        for stream in [Stream::Stdout, Stream::Stderr] {
            for _ in 0..REST_READS {
                if !matches!(self.pump(child, stream), Read::Bytes(_)) {
                    break;
                }
            }
        }
    }

    /// Moves one chunk of output to the log and to everyone attached.
    fn pump(&mut self, child: &mut Child, stream: Stream) -> Read {
        let read = child.channels.read(stream, &mut self.buffer);
        let Read::Bytes(length) = read else { return read };
        let bytes = &self.buffer[..length];
        if let Some(log) = &mut self.log
            && let Err(error) = log.write(stream, bytes)
        {
            tracing::warn!(%error, "cannot write the log");
        }
        let wanted = match stream {
            Stream::Stdout => StreamSet::STDOUT,
            Stream::Stderr => StreamSet::STDERR,
        };
        let attached = self.clients.iter_mut().filter(|client| client.streams.contains(wanted));
        let mut frame = Vec::new();
        for client in attached {
            if frame.is_empty() {
                debug_assert!(length <= PAYLOAD_LIMIT);
                frame = stream_frame(stream == Stream::Stderr, bytes);
            }
            client.queue(&frame);
        }
        read
    }

    fn check_health(&mut self, child: &mut Child) {
        let Some(health) = &mut child.health else { return };
        let target = Target {
            process: child.process.identity(),
            cgroup: self.spec.plan.cgroup.path.clone(),
        };
        if let Some((state, failures)) = health.turn(&target, &self.spec.plan.process) {
            self.note(Event::Health(state, failures));
        }
    }

    pub(super) fn flush_clients(&mut self) {
        self.clients.retain_mut(|client| client.flush().is_ok());
    }
}

/// What [`Monitor::wait`] has seen.
#[derive(Debug, Default)]
struct Ready {
    listener: bool,
    clients: Vec<usize>,
    outputs: Vec<Stream>,
    resolver: bool,
}

/// What a polled descriptor belongs to.
#[derive(Debug, Clone, Copy)]
enum Source {
    Listener,
    Client(usize),
    Output(Stream),
    Resolver,
    Other,
}

fn timespec(duration: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(duration.subsec_nanos()),
    }
}
