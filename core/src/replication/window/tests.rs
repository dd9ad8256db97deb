//! Properties of the window.

use proptest::prelude::*;

use super::{WINDOW_BYTES_MAX, WINDOW_RECORDS_MAX, Window};
use crate::ids::Seq;

proptest! {
    #[test]
    fn the_window_never_holds_more_than_its_limits(
        steps in prop::collection::vec((0_u32..1 << 20, any::<bool>(), 0_u64..100), 0..400)
    ) {
        let mut window = Window::default();
        let (mut bytes_open, mut open) = (0_u64, Vec::new());
        for (bytes, ship, back) in steps {
            if ship && window.has_room(bytes) {
                window.reserve(bytes);
                window.unreserve(bytes);
                open.push((window.ship(bytes), u64::from(bytes)));
                bytes_open += u64::from(bytes);
            } else if !ship {
                let received = Seq(window.last().0.saturating_sub(back));
                prop_assert!(window.acknowledge(received, Seq(0)).is_ok());
                open.retain(|(seq, _)| *seq > received);
                bytes_open = open.iter().map(|(_, bytes)| bytes).sum();
            }
            prop_assert!(bytes_open <= WINDOW_BYTES_MAX);
            prop_assert!(open.len() <= WINDOW_RECORDS_MAX);
            prop_assert_eq!(window.is_waiting(), !open.is_empty());
        }
    }

    #[test]
    fn an_acknowledgement_never_takes_anything_back(
        acks in prop::collection::vec((0_u64..20, 0_u64..20), 0..50)
    ) {
        let mut window = Window::default();
        for _ in 0..10 {
            window.ship(1);
        }
        for (received, durable) in acks {
            let before = (window.received(), window.durable());
            let fits = received <= 10 && durable <= received;
            prop_assert_eq!(window.acknowledge(Seq(received), Seq(durable)).is_ok(), fits);
            prop_assert!(window.received() >= before.0 && window.durable() >= before.1);
        }
    }
}

#[test]
fn a_change_larger_than_the_window_goes_alone() {
    let mut window = Window::default();
    let huge = WINDOW_BYTES_MAX as u32 + 1;
    assert!(window.has_room(huge));
    window.reserve(huge);
    assert!(!window.has_room(1));
}
