"""The dashboard against made-up figures."""

import threading
import urllib.parse
import urllib.request

import mock
from common import Failure, say, wait_until
from page import ROW, Page

FEEDS = 12
CUT, PAUSED, CALM = "coinbase-matches", "deribit-options", "okx-trades"
# What the browser itself says of requests that fail, as they must here.
FAILED_REQUESTS = ("Failed to load resource",)


class Mocked:
    """A mock that serves."""

    def __init__(self, places, *words):
        self.args = mock.parse(list(words))
        self.places = places
        self.server = None
        self.start()
        places.defer(self.stop)

    def start(self):
        """Serves, on the port of before if there was one."""
        self.server = mock.serve(self.args)
        self.args.port = self.server.server_address[1]
        self.url = f"http://127.0.0.1:{self.args.port}/"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def stop(self):
        """Ends; more than once is fine."""
        if self.server:
            self.tell("answer")
            self.server.shutdown()
            self.server.server_close()
            self.server = None

    def tell(self, verb, **query):
        """See mock.py."""
        url = f"{self.url}mock/{verb}?{urllib.parse.urlencode(query)}"
        with urllib.request.urlopen(urllib.request.Request(url, b"", method="POST")) as answer:
            answer.read()

    def recorder(self):
        """What the server tells of."""
        return self.server.RequestHandlerClass.mock


def let_rounds_pass(browser):
    """Time for three more, where the page goes on asking."""
    browser.tool("Runtime.evaluate", expression="new Promise((done) => setTimeout(done, 3000))",
                 awaitPromise=True)


def layout(browser, folder, places):
    """Widths, colours, contrast."""
    page = Page(browser, Mocked(places).url)
    for width in (360, 800, 1600):
        for scheme in ("light", "dark"):
            look = {"scheme": scheme, "phone": width == 360}
            browser.look(width, **look)
            page.open(FEEDS)
            page.must("trouble stands first", f"document.querySelector('#rows > li').row.name === '{CUT}'")
            browser.run("document.querySelector('.c-name button').click()")
            browser.run("document.querySelector('#memory-more').open = true")
            page.wait("memory is explained", "document.querySelector('#memory-sentences div')")
            page.fit_height(width, **look)
            page.wait("rows in sight are drawn", "[...rows.values()].every((row) => row.visible "
                      "&& row.perSecond !== null)")
            where = f"{width} px, {scheme}"
            page.check_layout(where)
            page.check_console(where)
            browser.picture(folder / f"mock-{width}-{scheme}.png")
            browser.look(width, **look)


def states(browser, folder, places):
    """States by word, shape and colour; gaps; words from the server stay words."""
    mocked = Mocked(places)
    browser.look(1600)
    page = Page(browser, mocked.url)
    page.open(FEEDS)
    for feed, state, tone in ((CUT, "waiting", "tone-bad"), (PAUSED, "paused", "tone-off"),
                              (CALM, "live", "tone-ok")):
        if tone not in page.wait_state(feed, state):
            raise Failure(f"'{feed}' is {state}, and not coloured {tone}")
        page.must(f"'{state}' has its shape", f"{ROW}.querySelector('use').getAttribute('href') "
                  "=== '#s-' + arguments[1]", feed, state)
    page.wait_gap(CUT)
    page.wait_gap(PAUSED, "t-paused")
    page.wait_sentence("1 of 12 feeds is not live: coinbase-matches; 1 is paused")
    evil = "<img src=x onerror=alert(1)>"
    mocked.tell("cut", feed=CALM, why=evil)
    if "tone-bad" not in page.wait_state(CALM, "waiting"):
        raise Failure("a cut feed does not turn red")
    page.wait_gap(CALM)
    page.must("words of the server are no markup", f"{ROW}.textContent.includes(arguments[1]) && "
              "document.images.length === 0", CALM, evil)
    page.must("a change is said to screen readers", "document.querySelector('#said').textContent"
              f".includes('{CALM} is waiting')")
    mocked.tell("heal", feed=CALM)
    page.wait_state(CALM, "live")
    page.wait("the gap ended", f"{ROW}.row.gaps.every((gap) => gap.to !== null)", CALM)
    mocked.tell("calm")
    page.wait_sentence("All 12 feeds are live")
    mocked.tell("stall")
    page.wait_sentence("The disk takes no data")
    page.must("a count is none of bytes", "[...document.querySelectorAll('#memory-sentences div')]"
              ".some((one) => [...one.children].slice(1, 3).map((part) => part.textContent).join()"
              " === 'threads,23')")
    page.must("figures stand by section", "[...document.querySelectorAll("
              "'#memory-sentences .part')].filter((part) => !part.hidden).map((part) => part.textContent.split(' ')[0]).join()"
              " === 'PROCESS,HEAP,ADDRESS,CGROUP'")
    page.must("it is said since when gaps are known", "document.querySelector('#known')"
              ".textContent.includes('the recorder\\'s start')")
    page.must("log lines say their level", "document.querySelector('#lines .error') !== null")
    page.check_console("states")


def orders(browser, folder, places):
    """Pause, resume and errors, with the confirmation."""
    mocked = Mocked(places)
    browser.look(1200)
    page = Page(browser, mocked.url)
    page.open(FEEDS)
    page.open_order(page.button(f"Pause {CALM}"))
    browser.picture(folder / "mock-dialog.png")
    browser.press("Escape")
    page.must("Escape closes the dialog, and the button has the focus again", "!document."
              "querySelector('#ask').open && document.activeElement.ariaLabel === arguments[0]",
              f"Pause {CALM}")
    page.must("nothing was paused", f"{ROW}.row.feed.state === 'live'", CALM)
    page.order(page.button(f"Pause {CALM}"))
    page.wait_state(CALM, "paused")
    page.order(page.button(f"Resume {CALM}"))
    page.wait_state(CALM, "live")
    page.order("#pause-all")
    page.wait_sentence("The recorder is paused")
    page.order("#resume-all")
    page.wait_sentence("All 12 feeds are live")
    page.order("#rotate")
    page.check_console("orders")
    page.open_order("#reload")
    browser.click("#ask-yes")
    page.wait("an error is shown, and the dialog stays", "document.querySelector('#ask').open && "
              "document.querySelector('#ask-error').textContent.includes('no feeds file')")
    browser.click("#ask-no")
    page.check_console("an order that fails", FAILED_REQUESTS)


def keyboard(browser, folder, places):
    """All of it without a mouse."""
    browser.look(1200)
    page = Page(browser, Mocked(places).url)
    page.open(FEEDS)
    browser.press("/", *"okx")
    shown = "[...document.querySelectorAll('#rows > li')].filter((n) => n.checkVisibility()).length"
    page.must("/ leads to the filter, and it filters", f"{shown} === 2")
    browser.press("Escape")
    page.must("Escape empties it", f"{shown} === {FEEDS}")
    browser.press("Tab", "Tab")
    page.must("the first feed comes after filter and order", "document.activeElement === document."
              "querySelector('#rows .c-name button')")
    page.must("where the focus is can be seen", "getComputedStyle(document.activeElement)"
              ".outlineStyle === 'solid'")
    browser.press("Enter", "Tab")
    page.must("Enter opens the details", "document.querySelector('#rows .more') !== null")
    browser.press("ArrowLeft")
    page.must("a timeline tells of its gap", "document.activeElement.classList.contains('day') && "
              "!document.querySelector('#tip').hidden && document.querySelector('#tip').textContent"
              ".startsWith('reconnect\\nsince ')")
    browser.picture(folder / "mock-tip.png")
    browser.press("Tab")
    page.must("the tip goes with the focus", "document.querySelector('#tip').hidden")
    browser.press("Enter")
    page.must("Enter asks", "document.querySelector('#ask').open && document.activeElement.id === "
              "'ask-no'")
    browser.press("Tab", "Enter")
    page.wait_state(CUT, "paused")
    browser.run("document.querySelector('#memory-chart').focus()")
    browser.press("ArrowLeft", "ArrowLeft")
    page.must("the chart tells its figures", "document.querySelector('#tip').textContent"
              ".includes('resident (RSS) ')")
    page.check_console("keyboard")


def restarts(browser, folder, places):
    """No answer, other answers, another run of the recorder."""
    mocked = Mocked(places)
    browser.look(1600)
    page = Page(browser, mocked.url)
    page.open(FEEDS)
    page.check_console("before a restart")
    mocked.tell("refuse")
    page.wait_sentence("Connection to the recorder lost since")
    page.must("what is shown is said to be old", "document.body.classList.contains('old') && "
              "document.querySelector('#note').textContent.includes('503: too many connections')")
    page.check_layout("lost")
    browser.picture(folder / "mock-lost.png")
    mocked.tell("answer")
    page.wait_sentence("1 of 12 feeds is not live")
    page.must("nothing is said to be old", "document.querySelector('#note').hidden")
    mocked.tell("hang")
    page.wait_sentence("Connection to the recorder lost since", limit_s=25)
    page.must("it says how long it waited", "document.querySelector('#note').textContent"
              ".includes('no answer within 8 s')")
    mocked.tell("answer")
    page.wait_sentence("1 of 12 feeds is not live")
    mocked.tell("lame")
    browser.run("due.memory = 0")
    page.wait("what fails by itself is named", "document.querySelector('#note').textContent"
              ".includes('memory (500: no figures)')")
    page.wait_sentence("1 of 12 feeds is not live")
    mocked.tell("answer")
    page.wait("and it is there again", "document.querySelector('#note').hidden")
    mocked.stop()
    page.wait("it says that nobody is there", "document.querySelector('#note').textContent"
              ".includes(\"it can't be reached\")")
    mocked.start()
    page.wait("another run is noticed", "document.querySelector('#lines').textContent"
              ".includes('the recorder was started anew at')")
    mocked.tell("restart")
    page.wait_sentence("All 12 feeds are live")
    page.wait("old gaps are forgotten", "gaps.size === 0 && rows.size === 12")
    page.must("and rows are not doubled", "document.querySelectorAll('#rows > li').length === 12")
    page.check_console("restarts", FAILED_REQUESTS)


def token(browser, folder, places):
    """A recorder that wants one."""
    mocked = Mocked(places, "--token", "open sesame")
    browser.look(800)
    browser.open(mocked.url)
    page = Page(browser, mocked.url)
    page.wait("it asks for the token", "document.activeElement.id === 'token'")
    browser.picture(folder / "mock-token.png")
    page.check_layout("token")
    browser.press(*"wrong", "Enter")
    page.wait("a wrong one is not taken", "document.querySelector('#token-error').textContent"
              ".includes('Not taken: 401')")
    let_rounds_pass(browser)
    refused = mocked.recorder().refused
    if refused != 2:
        raise Failure(f"it asked {refused} times with no token or a wrong one, not twice: the "
                      "recorder would lock it out")
    browser.click("#token")
    browser.press(*"open sesame", "Enter")
    page.wait("feeds are shown", f"rows.size === {FEEDS}")
    page.wait("the token is kept for this tab only, and not shown", "sessionStorage.length === 1 "
              "&& localStorage.length === 0 && document.cookie === '' && "
              "document.querySelector('#token-form').hidden")
    page.open(FEEDS)
    page.check_console("token", FAILED_REQUESTS)


def honest(browser, folder, places):
    """Where nothing is known, nothing is claimed."""
    browser.look(1600)
    page = Page(browser, Mocked(places, "--empty", "--feeds", "3").url)
    page.open(3)
    page.wait_sentence("1 of 3 feeds is not live")
    for what, script in (
            ("a feed that never came has no last message", "document.querySelector('#rows .c-age')"
             ".textContent === 'none yet'"),
            ("its rate is not 0 before two answers, or is", "document.querySelector('#rows .c-rate "
             "span').textContent.match(/unknown|^0\\/s/)"),
            ("nor is it covered", "document.querySelector('#rows .c-cover').textContent === "
             "'0.00 %'"),
            ("no history", "document.querySelector('#memory-span').textContent === "
             "'no history yet'"),
            ("no plan", "document.querySelector('#memory-plan').textContent === "
             "'No plan is known.'"),
            ("no disk", "document.querySelector('#disk-free').textContent === 'unknown' "
             "&& document.querySelector('#disk-bar .fill') === null"),
            ("no end of the disk", "document.querySelector('#disk-text').textContent"
             ".includes('When it is full is unknown')"),
            ("the day before is hatched", "document.querySelector('.day .t-unknown').getBBox()"
             ".width > 100")):
        page.must(what, script)
    page.check_layout("empty")
    page.check_console("empty")
    browser.picture(folder / "mock-empty.png")


def log(browser, folder, places):
    """It follows, unless one reads; what was missed is said."""
    mocked = Mocked(places)
    browser.look(1600)
    page = Page(browser, mocked.url)
    page.open(FEEDS)
    lines = "document.querySelector('#lines')"
    mocked.tell("flood")
    page.wait("missed lines are said", f"{lines}.textContent.includes('lines were missed here')")
    page.wait("it follows", f"{lines}.lastChild.textContent.includes('line 599 of a flood') && "
              f"{lines}.scrollHeight - {lines}.scrollTop - {lines}.clientHeight < 24")
    browser.run(f"{lines}.scrollTop = 100")
    page.wait("scrolled up it stands still", "!document.querySelector('#log-end').hidden")
    mocked.tell("flood")
    page.wait("it goes on", f"{lines}.childElementCount === 1000")
    page.must("where one read one reads on", f"{lines}.scrollTop < 2000")
    browser.click("#log-end")
    page.wait("back at the end", f"{lines}.scrollHeight - {lines}.scrollTop - "
              f"{lines}.clientHeight < 24 && document.querySelector('#log-end').hidden")
    page.check_console("log")


def hidden(browser, folder, places):
    """A tab that nobody sees asks nothing."""
    mocked = Mocked(places)
    page = Page(browser, mocked.url)
    page.open(FEEDS)
    hide = ("(Object.defineProperty(document, 'hidden', {{value: {}, configurable: true}}), "
            "document.dispatchEvent(new Event('visibilitychange')))")
    browser.run(hide.format("true"))
    page.wait("the round under way ends", "!running")
    asked = mocked.recorder().asked
    let_rounds_pass(browser)
    if mocked.recorder().asked != asked:
        raise Failure("a hidden tab goes on asking")
    browser.run(hide.format("false"))
    wait_until("it asks again", lambda: mocked.recorder().asked > asked, 5)
    page.check_console("hidden")


def many(browser, folder, places):
    """500 feeds: rows are changed, not made anew."""
    browser.look(1600)
    page = Page(browser, Mocked(places, "--feeds", "500").url)
    page.open(500)
    browser.run("(window.first = [...document.querySelectorAll('#rows > li')], window.made = 0, "
                "new MutationObserver((all) => all.forEach((one) => window.made += one.addedNodes"
                ".length)).observe(document.querySelector('#rows'), {childList: true}), "
                "window.slow = [], new PerformanceObserver((all) => all.getEntries().forEach((one)"
                " => window.slow.push(one.duration))).observe({entryTypes: ['longtask']}))")
    before = browser.run("now.at")
    page.wait("five more rounds", "now.at > arguments[0] + 5000", before, limit_s=60)
    page.must("rows stay", "first.every((row) => row.isConnected) && made < 20")
    slow = browser.run("slow")
    say(f"500 feeds: {len(slow)} tasks over 50 ms in 5 rounds, the longest "
        f"{max(slow, default=0):.0f} ms")
    # What comes into sight is told anew.
    browser.run("scrollTo(0, document.body.scrollHeight)")
    last = "document.querySelector('#rows > li:last-child')"
    page.wait("the last row is up to date", f"{last}.row.visible && {last}.querySelector("
              f"'.c-rate span').textContent === rateWords({last}.row.perSecond)")
    browser.run("document.querySelector('#filter').focus()")
    browser.press(*"feed-49")
    page.must("the filter finds", "document.querySelector('#shown').textContent === '10 of 500'")
    page.check_layout("500 feeds")
    page.check_console("500 feeds")


def run(browser, folder, program, places):
    """All of them."""
    for check in (layout, states, orders, keyboard, restarts, token, honest, log, hidden, many):
        check(browser, folder, places)
        say(f"mock: {check.__name__}: ok")
