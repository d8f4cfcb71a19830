//! Which flow the next frame is of. With several queues each flow keeps to one, as it would with the hashing of a NIC.

/// In which order flows come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// One after the other, each once.
    Once,
    /// One after the other, over and over.
    InTurn,
    /// Each as likely as any other.
    Random,
}

/// Chooses flows.
pub struct Flows {
    first: u32,
    count: u32,
    queues: u32,
    order: Order,
    random: fastrand::Rng,
    /// For each queue, how many of its flows have had their turn.
    turns: Vec<u32>,
}

impl Flows {
    /// `count` flows from number `first` on, spread over `queues`.
    pub fn new(first: u32, count: u32, queues: usize, order: Order) -> Self {
        let turns = vec![0; queues];
        Self { first, count, queues: queues as u32, order, random: fastrand::Rng::new(), turns }
    }

    /// Whether all have had the one turn that they get.
    pub fn is_over(&self) -> bool {
        let all = self.count;
        self.order == Order::Once && self.turns.iter().sum::<u32>() == all
    }

    /// A flow of `queue`; `None` if it has none left, or none at all, which is so where there are fewer flows than queues.
    #[inline]
    pub fn next(&mut self, queue: usize) -> Option<u32> {
        let offset = queue as u32;
        let of_queue = (self.count + self.queues - 1).checked_sub(offset)? / self.queues;
        if of_queue == 0 {
            return None;
        }
        let place = match self.order {
            Order::Random => self.random.u32(..of_queue),
            Order::Once => {
                let turn = &mut self.turns[queue];
                let place = *turn;
                if place == of_queue {
                    return None;
                }
                *turn += 1;
                place
            }
            Order::InTurn => {
                let turn = &mut self.turns[queue];
                let place = *turn;
                *turn = if place + 1 == of_queue { 0 } else { place + 1 };
                place
            }
        };
        Some(self.first + place * self.queues + offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_flow_has_its_turn_once_and_in_its_queue() {
        for (count, queues) in [(1, 1), (7, 1), (7, 3), (2, 3)] {
            let mut flows = Flows::new(100, count, queues, Order::Once);
            let mut seen = Vec::new();
            for queue in 0..queues {
                assert!(!flows.is_over() || count < queues as u32);
                let of_queue: Vec<_> = std::iter::from_fn(|| flows.next(queue)).collect();
                assert!(of_queue.iter().all(|flow| (flow - 100) as usize % queues == queue));
                seen.extend(of_queue);
            }
            assert!(flows.is_over());
            seen.sort_unstable();
            assert_eq!(seen, (100..100 + count).collect::<Vec<_>>(), "{count} over {queues}");
        }
    }

    #[test]
    fn in_turn_begins_again() {
        let mut flows = Flows::new(0, 3, 1, Order::InTurn);
        let first: Vec<_> = std::iter::from_fn(|| flows.next(0)).take(7).collect();
        assert_eq!((first, flows.is_over()), (vec![0, 1, 2, 0, 1, 2, 0], false));
    }

    #[test]
    fn random_flows_are_all_met_and_no_others() {
        let mut flows = Flows::new(5, 10, 2, Order::Random);
        let mut seen = [0; 10];
        for n in 0..1000 {
            let flow = flows.next(n % 2).unwrap() - 5;
            assert_eq!(flow as usize % 2, n % 2);
            seen[flow as usize] += 1;
        }
        assert!(seen.iter().all(|times| *times > 50), "{seen:?}");
    }
}
