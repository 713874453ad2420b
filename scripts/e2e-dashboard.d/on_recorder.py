"""The dashboard against a recorder that records."""

import signal
import socket

from common import Recorder, say
from page import ROW, Page
from server import Server

FEEDS = 6
RATE = 300
# Long enough to be seen waiting; the page's own order ends it.
PACE = ("--backoff-min", "30s", "--backoff-max", "60s")


def free_port():
    """One that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def cut(feed):
    """The venue hangs up."""
    with feed.lock:
        # A close alone would wait for the thread that reads.
        feed.socket.shutdown(socket.SHUT_RDWR)
        feed.hang_up()


def run(browser, folder, program, places):
    """One recording, looked at."""
    server = Server(FEEDS, RATE).start()
    places.defer(server.stop)
    port = free_port()
    recorder = Recorder(program, places.make("tapes"), server, folder / "record.log",
                        ["--admin", f"127.0.0.1:{port}"], pace=PACE)
    places.defer(recorder.kill_if_running)
    recorder.start()
    # Once for each feed.
    recorder.wait_for_log(f"f{FEEDS - 1}: conn 1: connected", 30)
    page = Page(browser, f"http://127.0.0.1:{port}/")
    browser.look(1600)
    page.open(FEEDS)
    page.wait_sentence(f"All {FEEDS} feeds are live")
    page.wait("rates are shown", "[...rows.values()].every((row) => row.perSecond > 1)")
    page.must("memory is shown", "memory.figures.rss_bytes > 0")
    page.check_console("feeds appear")

    cut(server.feeds[1])
    if "tone-bad" not in page.wait_state("f1", "waiting"):
        raise AssertionError("a waiting feed is red")
    page.wait_sentence(f"1 of {FEEDS} feeds is not live: f1")
    page.wait("the log tells of it", "[...document.querySelectorAll('#lines li')].some((line) => "
              "line.textContent.includes('f1: ') && line.textContent.includes('disconnected'))")
    page.order(page.button("Reconnect f1"))
    page.wait_state("f1", "live")
    page.wait_gap("f1")
    page.must("the gap has an end and a reason", f"{ROW}.row.gaps.some((gap) => gap.to !== null "
              "&& gap.reason === 'reconnect')", "f1")
    say("recorder: a cut feed turns red, its gap is drawn: ok")

    page.order(page.button("Pause f2"))
    page.wait_state("f2", "paused")
    page.order(page.button("Resume f2"))
    page.wait_state("f2", "live")
    page.wait_gap("f2", "t-paused")
    page.order("#pause-all")
    page.wait_sentence("The recorder is paused")
    page.order("#resume-all")
    page.wait_sentence(f"All {FEEDS} feeds are live")
    page.order("#rotate")
    page.check_layout("recorder")
    page.check_console("orders")
    browser.picture(folder / "recorder.png")
    say("recorder: pause, resume, rotate: ok")

    recorder.end(signal.SIGTERM)
    page.wait_sentence("Connection to the recorder lost since")
    recorder.start()
    page.wait("another run is noticed", "document.querySelector('#lines').textContent"
              ".includes('the recorder was started anew at')", limit_s=30)
    page.wait_sentence(f"All {FEEDS} feeds are live")
    page.check_console("restart", ("Failed to load resource",))
    say("recorder: its restart is survived: ok")
    recorder.end(signal.SIGTERM)
