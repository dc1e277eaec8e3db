import pytest

from kanseg.training.batches import BatchPlan


def test_an_epoch_holds_every_sample_once():
    plan = BatchPlan(10, 4, seed=0)
    keys = [key for batch in plan for key in batch]
    assert sorted(i for _, i in keys) == list(range(10))
    assert [len(b) for b in plan] == [4, 4, 2]


@pytest.mark.parametrize(("count", "sizes"), [(9, [4, 5]), (5, [5]), (1, [1]), (8, [4, 4])])
def test_a_single_sample_left_over_joins_the_batch_before_it(count, sizes):
    plan = BatchPlan(count, 4, seed=0)
    assert [len(b) for b in plan] == sizes
    assert len(plan) == len(sizes)


def test_order_depends_on_seed_and_epoch_alone():
    def order(seed, epoch):
        plan = BatchPlan(50, 7, seed=seed)
        plan.go_to(epoch)
        return [i for batch in plan for _, i in batch]

    assert order(1, 2) == order(1, 2)
    assert len({tuple(order(s, e)) for s in range(3) for e in range(3)}) == 9


def test_a_plan_goes_on_in_the_middle_of_an_epoch():
    plan = BatchPlan(50, 7, seed=1)
    plan.go_to(3)
    whole = list(plan)
    plan.go_to(3, 5)
    assert list(plan) == whole[5:]
    assert len(plan) == 2  # 50 = 6 * 7 + 8: the one left over joined the last batch


@pytest.mark.parametrize("world", [2, 3])
def test_processes_share_the_epoch_in_equal_numbers(world):
    plans = [BatchPlan(10, 2, seed=0, rank=r, world_size=world) for r in range(world)]
    batches = [list(p) for p in plans]
    assert len({tuple(map(len, b)) for b in batches}) == 1
    assert {i for b in batches for batch in b for _, i in batch} == set(range(10))


def test_more_processes_than_samples_still_get_a_batch_each():
    assert [len(list(BatchPlan(2, 4, seed=0, rank=r, world_size=5))) for r in range(5)] == [1] * 5


@pytest.mark.parametrize("world", [1, 2, 4])
def test_step_k_of_several_processes_is_batch_k_of_one(world):
    """As many images a step in all, of a set that they divide: the same images whatever the
    number of processes.
    """
    one = [{i for _, i in batch} for batch in BatchPlan(24, 8, seed=3)]
    many = [
        list(BatchPlan(24, 8 // world, seed=3, rank=rank, world_size=world))
        for rank in range(world)
    ]
    assert [{i for plan in many for _, i in plan[step]} for step in range(3)] == one


@pytest.mark.parametrize(
    ("count", "size", "world", "expected"),
    [
        (9, 4, 1, (4, 5)),
        (10, 4, 1, (2, 4)),
        (3, 8, 1, (3, 3)),
        (8, 4, 1, (4, 4)),
        (11, 2, 3, (2, 2)),
    ],
)
def test_sizes_are_those_of_the_smallest_and_the_largest_batch(count, size, world, expected):
    plan = BatchPlan(count, size, seed=0, world_size=world)
    lengths = [len(batch) for batch in plan]
    assert plan.sizes == expected == (min(lengths), max(lengths))
