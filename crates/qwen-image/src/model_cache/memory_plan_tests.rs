//! Plans for many made-up GPUs.

use super::*;
use crate::models::BlockPlacement;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// The full models in bfloat16.
fn full() -> Sizes {
    Sizes {
        text_encoder: PartSize { ends: 3480 * MIB, block: 444 * MIB, blocks: 28, room: 444 * MIB, work: 390 * MIB },
        transformer: PartSize { ends: 64 * MIB, block: 648 * MIB, blocks: 60, room: 432 * MIB, work: 2700 * MIB },
        vae: PartSize { ends: 484 * MIB, work: 2304 * MIB, ..PartSize::default() },
    }
}

fn ask(free: u64) -> PlanRequest {
    PlanRequest {
        sizes: full(),
        free,
        held: 0,
        leavable: 0,
        host: 128 * GIB,
        offload: CpuOffload::Auto,
        budget: None,
        from: PlacementMode::Resident,
    }
}

fn needs(sizes: &Sizes) -> u64 {
    sizes.parts().iter().map(PartSize::weights).sum()
}

#[test]
fn a_card_gets_the_fastest_mode_that_fits() {
    let modes = [
        (79, PlacementMode::Resident),
        (60, PlacementMode::Resident),
        (56, PlacementMode::InTurn),
        (48, PlacementMode::InTurn),
        (24, PlacementMode::Streamed),
    ];
    for (gib, mode) in modes {
        let made = plan(&ask(gib * GIB)).unwrap();
        assert_eq!(made.mode, mode, "{gib} GiB: {made}");
    }
}

#[test]
fn no_plan_takes_more_than_there_is_whatever_the_card() {
    for mib in (256..100 * 1024).step_by(301) {
        for offload in [CpuOffload::Auto, CpuOffload::Never, CpuOffload::Model, CpuOffload::Sequential] {
            for budget in [None, Some(mib * MIB * 2 / 3)] {
                let question = PlanRequest { offload, budget, ..ask(mib * MIB) };
                match plan(&question) {
                    Ok(made) => {
                        assert!(
                            made.device <= mib * MIB && budget.is_none_or(|budget| made.device <= budget),
                            "{made:?}"
                        );
                        let away = made.placement.transformer.in_turn;
                        assert_eq!(made.host, if away { needs(&full()) } else { 0 });
                    }
                    Err(refused) => {
                        let PlanError::Device { needed, available, .. } = refused else { panic!("{refused}") };
                        assert!(needed > available, "{refused}");
                    }
                }
            }
        }
    }
}

#[test]
fn more_memory_never_makes_it_slower() {
    let mut before: Option<MemoryPlan> = None;
    for mib in (4096..100 * 1024).step_by(97) {
        let Ok(made) = plan(&ask(mib * MIB)) else {
            assert!(before.is_none(), "{mib} MiB are refused, but fewer were not");
            continue;
        };
        if let Some(before) = before {
            assert!(made.mode <= before.mode && made.blocks.0 >= before.blocks.0, "{mib} MiB: {before} -> {made}");
        }
        before = Some(made);
    }
    assert!(before.is_some_and(|plan| plan.mode == PlacementMode::Resident));
}

#[test]
fn sequential_alone_means_as_little_as_possible_and_with_a_budget_as_much_as_it_allows() {
    let least = plan(&PlanRequest { offload: CpuOffload::Sequential, ..ask(80 * GIB) }).unwrap();
    assert_eq!((least.mode, least.blocks), (PlacementMode::Smallest, (0, 60)));
    assert!(least.device <= 5 * GIB, "{least}");
    let some = plan(&PlanRequest { offload: CpuOffload::Sequential, budget: Some(20 * GIB), ..ask(80 * GIB) }).unwrap();
    assert!(some.mode == PlacementMode::Streamed && some.blocks.0 > 20 && some.device <= 20 * GIB, "{some}");
    // The text encoder fits whole.
    assert_eq!(some.placement.text_encoder.blocks, BlockPlacement::OnDevice);
}

#[test]
fn two_models_stay_together_where_they_fit_and_swap_where_not() {
    let second = Sizes { text_encoder: PartSize::default(), ..full() };
    let first = needs(&full());
    let question = |total: u64| PlanRequest {
        sizes: second,
        held: first,
        leavable: first - full().text_encoder.weights(),
        ..ask(total - first)
    };
    let on_large = plan(&question(141 * GIB)).unwrap();
    assert!(!on_large.alone && on_large.mode == PlacementMode::Resident, "{on_large}");
    let on_80 = plan(&question(79 * GIB)).unwrap();
    assert!(on_80.alone && on_80.mode == PlacementMode::Resident, "{on_80}");
}

#[test]
fn after_running_out_the_next_mode_is_taken() {
    let mut mode = PlacementMode::Resident;
    let mut seen = Vec::new();
    while let Some(next) = mode.down() {
        mode = next;
        seen.push(plan(&PlanRequest { from: mode, ..ask(79 * GIB) }).unwrap().mode);
    }
    assert_eq!(seen, [PlacementMode::InTurn, PlacementMode::Streamed, PlacementMode::Smallest]);
    let asked = PlanRequest { offload: CpuOffload::Model, from: PlacementMode::Streamed, ..ask(79 * GIB) };
    assert_eq!(plan(&asked).unwrap().mode, PlacementMode::Streamed);
}

#[test]
fn what_cannot_fit_is_refused_with_the_numbers() {
    let refused = |question: PlanRequest| plan(&question).unwrap_err().to_string();
    insta::assert_snapshot!(refused(ask(3 * GIB)), @"it needs about 4.6 GiB even with its blocks streamed, but 2.9 GiB are free on the device; use a smaller checkpoint, or a device with more memory free");
    insta::assert_snapshot!(refused(PlanRequest { offload: CpuOffload::Never, ..ask(24 * GIB) }), @r#"it needs about 56.7 GiB, all of it at once, but 23.2 GiB are free on the device; allow offloading parts (cpu_offload = "auto")"#);
    insta::assert_snapshot!(refused(PlanRequest { offload: CpuOffload::Model, ..ask(24 * GIB) }), @r#"it needs about 40.7 GiB for its largest part, but 23.2 GiB are free on the device; allow streaming blocks (cpu_offload = "auto")"#);
    insta::assert_snapshot!(refused(PlanRequest { budget: Some(2 * GIB), ..ask(24 * GIB) }), @"it needs about 4.6 GiB even with its blocks streamed, but 2.0 GiB are left of vram_budget; use a smaller checkpoint, or a device with more memory free");
    insta::assert_snapshot!(refused(PlanRequest { host: 16 * GIB, ..ask(24 * GIB) }), @"the offloaded parts would take 54.0 GiB of host memory, but 16.0 GiB are free; set memory_budget if more may be used");
}

/// The second device holds the transformer alone, and the host what both leave there.
#[test]
fn the_device_of_the_negative_branch_needs_room_for_the_transformer() {
    let main = ask(80 * GIB);
    let on = |gib: u64, host: u64| plan(&main.of_negative_branch(gib * GIB, 0, host));
    insta::assert_snapshot!(on(80, 0).unwrap(), @"all on the device; at most 40.7 GiB there");
    let streamed = on(24, 54 * GIB).unwrap();
    assert_eq!(streamed.mode, PlacementMode::Streamed, "{streamed}");
    assert!(streamed.blocks.0 > 0 && streamed.host == streamed.weights, "{streamed}");
    assert!(matches!(on(24, 100 * GIB), Err(PlanError::Host { .. })), "both take host memory");
    let refused = on_negative_device("cuda:1", &on(2, 0).unwrap_err());
    assert!(refused.starts_with("for the negative branch on cuda:1, it needs about "), "{refused}");
    let beside = main.of_negative_branch(42 * GIB, 30 * GIB, 0);
    assert!(!plan(&beside).unwrap().alone && plan(&PlanRequest { free: 12 * GIB, ..beside }).unwrap().alone);
}
