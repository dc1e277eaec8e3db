import threading

import pytest

from kanseg.utils.prefetch import ahead, drawn_ahead


def test_results_come_in_order_and_from_another_thread():
    results = list(ahead(lambda x: (x * x, threading.get_ident()), range(5), count=2))
    assert [square for square, _ in results] == [0, 1, 4, 9, 16]
    assert threading.get_ident() not in {thread for _, thread in results}


def test_no_more_than_asked_for_is_made_ahead():
    drawn = []

    def items():
        for i in range(100):
            drawn.append(i)
            yield i

    results = ahead(lambda x: x, items(), count=3)
    next(results)
    assert len(drawn) == 4


def test_an_error_comes_where_its_result_would():
    results = ahead(lambda x: 1 / x, [1, 0, 2])
    assert next(results) == 1.0
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_an_iterator_is_drawn_by_a_thread_to_its_end():
    threads = set()

    def items():
        for i in range(5):
            threads.add(threading.get_ident())
            yield i

    assert list(drawn_ahead(items())) == [0, 1, 2, 3, 4]
    assert threading.get_ident() not in threads
