"""Reading ahead and writing behind: the order stays, little is in flight, errors come back."""

import threading

import pytest

from maskconver.inference.stream import behind, look_ahead, timed


def test_results_come_in_the_order_of_the_items_whoever_is_done_first() -> None:
    second_done = threading.Event()

    def work(item: int) -> int:
        if item == 0:
            assert second_done.wait(10)
        if item == 1:
            second_done.set()
        return item * 10

    found = [(item, future.result()) for item, future in look_ahead(work, range(4), ahead=2, threads=2)]
    assert found == [(0, 0), (1, 10), (2, 20), (3, 30)]


@pytest.mark.parametrize("ahead", [0, 1, 3])
def test_no_more_items_are_begun_than_asked_for(ahead: int) -> None:
    begun: list[int] = []
    for item, future in look_ahead(begun.append, range(10), ahead):
        future.result()
        assert max(begun) <= item + ahead


def test_items_are_taken_from_an_endless_source_as_needed_and_none_after_the_caller_stops() -> None:
    taken: list[int] = []

    def source():
        while True:
            taken.append(len(taken))
            yield taken[-1]

    begun: list[int] = []
    stream = look_ahead(begun.append, source(), ahead=2)
    assert next(stream)[0] == 0
    stream.close()
    assert taken == [0, 1, 2] and set(begun) <= set(taken)
    assert not [t for t in threading.enumerate() if t.name.startswith("look-ahead")]


def test_an_error_is_in_the_future_of_its_item_alone() -> None:
    found = {item: future.exception() for item, future in look_ahead(lambda n: 1 // n, [1, 0, 2])}
    assert found[1] is None and isinstance(found[0], ZeroDivisionError) and found[2] is None


def test_calls_behind_are_done_one_after_the_other_in_another_thread() -> None:
    done: list[tuple[int, str]] = []
    running = threading.Lock()

    def work(number: int) -> None:
        assert running.acquire(blocking=False)
        done.append((number, threading.current_thread().name))
        running.release()

    with behind(work) as hand_over:
        for number in range(5):
            hand_over(number)
    assert [number for number, _ in done] == list(range(5))
    assert threading.current_thread().name not in {name for _, name in done}


@pytest.mark.parametrize("bad", [0, 2])
def test_an_error_behind_stops_the_caller_at_the_next_call_or_the_end(bad: int) -> None:
    done: list[int] = []

    def work(number: int) -> None:
        if number == bad:
            raise OSError(28, "No space left on device")
        done.append(number)

    with pytest.raises(OSError, match="No space"), behind(work) as hand_over:
        for number in range(3):
            hand_over(number)
    assert done == list(range(bad))


def test_what_is_in_flight_is_finished_when_the_caller_is_interrupted() -> None:
    interrupted = threading.Event()
    done: list[int] = []

    def work(number: int) -> None:
        assert interrupted.wait(10)
        done.append(number)

    with pytest.raises(KeyboardInterrupt), behind(work) as hand_over:
        hand_over(1)
        interrupted.set()
        raise KeyboardInterrupt
    assert done == [1]


def test_times_of_a_stage_add_up_also_where_it_fails() -> None:
    seconds = {"read": 5.0}
    with timed(seconds, "read"):
        pass
    assert seconds["read"] > 5
    with pytest.raises(KeyError), timed(seconds, "write"):
        raise KeyError
    assert seconds["write"] > 0
