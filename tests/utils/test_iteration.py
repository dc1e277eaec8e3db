import threading

import pytest

from kanseg.utils.iteration import evenly, prefetch


def test_items_come_in_order_and_from_another_thread():
    items = list(prefetch(((x, threading.get_ident()) for x in range(5)), count=2))
    assert [x for x, _ in items] == [0, 1, 2, 3, 4]
    assert threading.get_ident() not in {thread for _, thread in items}


def test_no_more_than_count_and_one_are_prefetched():
    prepared = []

    def items():
        for i in range(100):
            prepared.append(i)
            yield i

    results = prefetch(items(), count=3)
    next(results)
    results.close()  # waits for the thread
    assert len(prepared) <= 4


def test_an_item_is_prepared_while_the_one_before_is_used():
    prepared = threading.Event()

    def items():
        yield 0
        prepared.set()
        yield 1

    results = prefetch(items())
    assert next(results) == 0
    assert prepared.wait(timeout=60)


def test_an_error_comes_where_its_item_would():
    results = prefetch(1 / x for x in [1, 0, 2])
    assert next(results) == 1.0
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_evenly_spaced_items_hold_the_first_and_the_last():
    assert evenly(range(100), 4) == [0, 33, 66, 99]
    assert evenly("abc", 5) == ["a", "b", "c"]
    assert evenly("abc", 1) == ["a"]
