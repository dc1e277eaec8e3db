import multiprocessing
import subprocess
import time

import pytest

from kanseg.inference.evaluate import let_the_main_process_stop


def read_for_ever(ready):
    let_the_main_process_stop(0)
    ready.set()
    time.sleep(120)


@pytest.mark.skipif(not hasattr(__import__("signal"), "sigwaitinfo"), reason="not on this system")
def test_a_reader_outlives_the_sigterm_of_others_and_ends_with_the_main_process():
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    reader = context.Process(target=read_for_ever, args=(ready,), daemon=True)
    reader.start()
    assert ready.wait(20)
    subprocess.run(["kill", "-TERM", str(reader.pid)], check=True)
    reader.join(0.5)
    assert reader.is_alive()
    reader.terminate()
    reader.join(20)
    assert reader.exitcode == 0
