//! Whose turn it is to use a device: calls of many threads one after the other, one thread's step in the working pool, or a
//! thread alone, for as long as a captured graph of its is in use.

use std::marker::PhantomData;
use std::sync::{Condvar, Mutex, MutexGuard};
use std::thread::ThreadId;

use super::Cuda;

#[derive(Default)]
pub(super) struct Turns {
    state: Mutex<State>,
    changed: Condvar,
}

/// Who has what, and how many guards of it.
#[derive(Default)]
struct State {
    calls: usize, // under way, of any thread
    works: Option<(ThreadId, usize)>,
    alone: Option<(ThreadId, usize)>,
    waiting: usize, // threads
}

/// The right to use a device's stream for one call.
#[must_use]
pub(super) struct Turn<'a>(Option<&'a Turns>);

/// See [`Cuda::working`].
pub struct Working {
    cuda: Cuda,
    of_this_thread: PhantomData<*const ()>, // it may not go to another
}

/// See [`Cuda::alone`].
pub struct Alone {
    cuda: Cuda,
    of_this_thread: PhantomData<*const ()>,
}

fn me() -> ThreadId {
    std::thread::current().id()
}

fn by_another(guard: Option<(ThreadId, usize)>) -> bool {
    guard.is_some_and(|(thread, _)| thread != me())
}

/// One guard more.
fn taken(guard: Option<(ThreadId, usize)>) -> Option<(ThreadId, usize)> {
    Some((me(), guard.map_or(0, |(_, guards)| guards) + 1))
}

/// One less.
fn given_back(guard: Option<(ThreadId, usize)>) -> Option<(ThreadId, usize)> {
    let (thread, guards) = guard.expect("a guard is held");
    (guards > 1).then_some((thread, guards - 1))
}

impl Turns {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it holds this.
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Waits until `free`, then changes the state. Every launch comes here twice: who waits is woken only if there is somebody.
    fn change(&self, free: impl Fn(&State) -> bool, change: impl FnOnce(&mut State)) {
        let mut state = self.lock();
        while !free(&state) {
            state.waiting += 1;
            state = self.changed.wait(state).unwrap_or_else(|poisoned| poisoned.into_inner());
            state.waiting -= 1;
        }
        change(&mut state);
        if state.waiting > 0 {
            self.changed.notify_all();
        }
    }

    /// A turn for one call. Who is alone has it already.
    pub(super) fn call(&self) -> Turn<'_> {
        let mut counted = false;
        self.change(
            |state| !by_another(state.alone),
            |state| {
                counted = state.alone.is_none();
                state.calls += usize::from(counted);
            },
        );
        Turn(counted.then_some(self))
    }

    /// Whether this thread works with the working pool.
    pub(super) fn works(&self) -> bool {
        self.lock().works.is_some_and(|(thread, _)| thread == me())
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if let Some(turns) = self.0 {
            turns.change(|_| true, |state| state.calls -= 1);
        }
    }
}

impl Cuda {
    /// While the guard lives, arrays that this thread makes come from the pool of what a step works with. Another thread that
    /// asks waits: a captured graph writes to places there that the arena counts as free.
    pub fn working(&self) -> Working {
        self.0.turns.change(
            |state| !by_another(state.works) && !by_another(state.alone),
            |state| state.works = taken(state.works),
        );
        Working { cuda: self.clone(), of_this_thread: PhantomData }
    }

    /// While the guard lives, other threads that use this handle wait: what they launch would come between the replays of a
    /// graph, whose states and results it may not see.
    pub fn alone(&self) -> Alone {
        self.0.turns.change(
            |state| state.calls == 0 && !by_another(state.works) && !by_another(state.alone),
            |state| state.alone = taken(state.alone),
        );
        Alone { cuda: self.clone(), of_this_thread: PhantomData }
    }
}

impl Drop for Working {
    fn drop(&mut self) {
        self.cuda.0.turns.change(|_| true, |state| state.works = given_back(state.works));
    }
}

impl Drop for Alone {
    fn drop(&mut self) {
        self.cuda.0.turns.change(|_| true, |state| state.alone = given_back(state.alone));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    use super::*;

    /// What another thread has reached 50 ms after it began, and in the end, once `guard` is gone.
    fn waits(guard: impl FnOnce(&Cuda) -> Box<dyn std::any::Any>, other: impl FnOnce(&Cuda) + Send) -> bool {
        let cuda = Cuda::planning();
        let (guard, through) = (guard(&cuda), AtomicBool::new(false));
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                other(&cuda);
                through.store(true, Ordering::SeqCst);
            });
            std::thread::sleep(Duration::from_millis(50));
            let waited = !through.load(Ordering::SeqCst);
            drop(guard);
            thread.join().unwrap();
            waited
        })
    }

    #[test]
    fn who_is_alone_lets_others_wait() {
        assert!(waits(|cuda| Box::new(cuda.alone()), |cuda| drop(cuda.0.turns.call())));
        assert!(waits(|cuda| Box::new(cuda.alone()), |cuda| drop(cuda.working())));
        assert!(waits(|cuda| Box::new(cuda.alone()), |cuda| drop(cuda.alone())));
    }

    #[test]
    fn who_works_lets_others_call() {
        assert!(!waits(|cuda| Box::new(cuda.working()), |cuda| drop(cuda.0.turns.call())));
        assert!(waits(|cuda| Box::new(cuda.working()), |cuda| drop(cuda.working())));
        assert!(waits(|cuda| Box::new(cuda.working()), |cuda| drop(cuda.alone())));
    }

    /// In any order and more than once: a generation is alone, works, and captures.
    #[test]
    fn one_thread_does_not_wait_for_itself() {
        let cuda = Cuda::planning();
        let (alone, working) = (cuda.alone(), cuda.working());
        let (again, call) = (cuda.alone(), cuda.0.turns.call());
        drop(alone);
        assert!(cuda.0.turns.lock().alone.is_some(), "one guard is left");
        drop((working, call, again));
        let state = cuda.0.turns.lock();
        assert_eq!((state.calls, state.works, state.alone), (0, None, None));
    }
}
