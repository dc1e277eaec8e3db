import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest

from kanseg.inference.files.claims import CLAIMS, MEMBER, PATIENCE, Claims
from kanseg.inference.files.processes import ProcessId, this_host, this_process

FAR = ProcessId("elsewhere", 1, 0.0)


@pytest.fixture
def ended():
    """A process of this machine that was killed."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    ended = ProcessId(this_host(), process.pid, psutil.Process(process.pid).create_time())
    assert not ended.has_ended()
    process.kill()
    while psutil.Process(process.pid).status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.01)
    assert ended.has_ended()
    process.communicate()
    return ended


def parent(number=0):
    """A process that runs, besides this one; another for each number."""
    pid = os.getppid()
    return ProcessId(this_host(), pid, psutil.Process(pid).create_time() + number / 1000)


def test_a_process_is_its_number_and_its_start(ended):
    assert not this_process().has_ended()
    assert ended.has_ended()
    now = this_process()
    assert ProcessId(now.host, now.pid, now.started - 60).has_ended()  # the number was given again
    assert FAR.has_ended() is None


def test_a_file_belongs_to_one_process_until_it_is_released(tmp_path):
    one, other = Claims(tmp_path), Claims(tmp_path, parent())
    assert one.take("a/b") is None
    assert other.take("a/b").process == this_process()
    assert other.take("a") is None
    one.release("a/b")
    assert other.take("a/b") is None
    assert one.leave() == []


def test_claims_of_a_killed_process_are_taken_over_once(tmp_path, ended):
    dead = Claims(tmp_path, ended)
    names = [f"{number}" for number in range(50)]
    for name in names:
        assert dead.take(name) is None
    claims = [Claims(tmp_path, parent()), Claims(tmp_path)]

    def take_all(claims):
        return [name for name in names if claims.take(name) is None]

    with ThreadPoolExecutor() as pool:
        taken = list(pool.map(take_all, claims))
    assert sorted(taken[0] + taken[1], key=int) == names
    # Again, the next one finds them taken.
    assert all(claims[0].take(name) is not None for name in taken[1])


def test_a_process_of_another_machine_has_ended_without_a_sign_of_life(tmp_path):
    far, here = Claims(tmp_path, FAR), Claims(tmp_path)
    assert far.take("a") is None
    assert here.take("a").process == FAR
    (path,) = (tmp_path / CLAIMS).glob(f"{MEMBER}elsewhere*")
    before = time.time() - PATIENCE - 60
    os.utime(path, (before, before))
    assert here.take("a") is None


def test_a_claim_that_was_torn_when_its_process_was_killed_is_taken_over_late(tmp_path):
    far, here = Claims(tmp_path, FAR), Claims(tmp_path)
    assert far.take("a") is None
    (path,) = (tmp_path / CLAIMS).glob("*.0")
    path.write_text('{"process"')
    assert here.take("a") is not None
    before = time.time() - PATIENCE - 60
    os.utime(path, (before, before))
    assert here.take("a") is None


def test_a_file_that_failed_is_tried_again_by_later_processes_only(tmp_path):
    one, other = Claims(tmp_path), Claims(tmp_path, parent())
    one.take("a")
    one.fail("a", "a.png: damaged")
    assert other.take("a").error == "a.png: damaged"
    (path,) = (tmp_path / CLAIMS).glob("*.0")
    os.utime(path, (1, 1))  # before the other began
    assert other.take("a") is None


def test_the_last_process_removes_the_claims_and_knows_all(tmp_path, ended):
    killed, one, other = Claims(tmp_path, ended), Claims(tmp_path), Claims(tmp_path, parent())
    killed.take("a")
    one.take("b")
    one.fail("b", "b.png: damaged")
    assert one.leave() == []
    members = other.leave()
    assert {member.process: member.left for member in members} == {
        ended: False,
        this_process(): True,
        parent(): True,
    }
    assert list(tmp_path.iterdir()) == []


def test_a_process_that_begins_while_another_ends_keeps_its_claims(tmp_path):
    def begin_and_end(numbers):
        for number in numbers:
            claims = Claims(tmp_path, parent(number))
            assert claims.take(f"{number}") is None
            assert claims.take(f"{number}").process == claims.process  # it still stands
            claims.leave()

    with ThreadPoolExecutor() as pool:
        list(pool.map(begin_and_end, (range(20), range(100, 120))))
