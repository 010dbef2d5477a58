"""Downloads from real servers on this machine, which only an explicit rule of the test allows."""

import gzip
import ipaddress
import shutil
import socket
import ssl
import subprocess
import threading
import time
from contextlib import contextmanager, suppress

import numpy as np
import pytest
from test_picture import PNG, SCENE

from mm1_mlx.errors import PictureError
from mm1_mlx.inputs.fetching import Fetcher, is_public
from mm1_mlx.inputs.picture import open_picture

LOOPBACK = ipaddress.ip_address("127.0.0.1")


def here(address):
    """Allow what the default allows, and 127.0.0.1."""
    return address == LOOPBACK or is_public(address)


def response(body=PNG, *, status="200 OK", kind="image/png", length=None, more=""):
    size = len(body) if length is None else length
    return (
        f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {size}\r\n{more}\r\n".encode() + body
    )


def redirect(location, status="302 Found"):
    return response(b"", status=status, more=f"Location: {location}\r\n")


def drip(connection):
    for byte in response():
        connection.sendall(bytes([byte]))
        time.sleep(0.05)


def drip_headers(connection):
    connection.sendall(b"HTTP/1.1 200 OK\r\n")
    for _ in range(1000):
        connection.sendall(b"X: y\r\n")
        time.sleep(0.05)


def say_nothing(connection):
    connection.recv(1)


def send_endlessly(connection):
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\n\r\n")
    while True:
        connection.sendall(bytes(1 << 16))


def send_chunks_endlessly(connection):
    connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        connection.sendall(b"10000\r\n" + bytes(1 << 16) + b"\r\n")


@contextmanager
def serve(answers, tls=None):
    """Serve answers by path, bytes or functions of the connection; yield the address and the requests that came."""
    asked = []

    def answer(plain):
        with (
            suppress(OSError),
            plain,
            tls.wrap_socket(plain, server_side=True) if tls else plain as connection,
        ):
            request = b""
            while b"\r\n\r\n" not in request:
                request += connection.recv(4096)
            asked.append(request.decode())
            found = answers[request.split()[1].decode()]
            connection.sendall(found) if isinstance(found, bytes) else found(connection)

    def accept():
        with suppress(OSError):
            while True:
                threading.Thread(target=answer, args=[server.accept()[0]], daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=accept, daemon=True).start()
        yield f"{'https' if tls else 'http'}://127.0.0.1:{server.getsockname()[1]}", asked
        with suppress(OSError):
            server.shutdown(socket.SHUT_RDWR)


def refused(url, **settings):
    with pytest.raises(PictureError) as error:
        Fetcher(**{"is_allowed": here} | settings)(url)
    assert str(error.value).startswith(f"{url} cannot be downloaded: ")
    assert str(error.value).endswith("; download the picture and give its path.")
    return str(error.value)


def test_a_picture_is_downloaded():
    with serve({"/a%20cat.png?size=1": response()}) as (url, asked):
        found = open_picture(f"{url}/a cat.png?size=1", fetch=Fetcher(is_allowed=here))
    np.testing.assert_array_equal(np.asarray(found), SCENE)
    assert "Accept-Encoding: identity\r\n" in asked[0] and f"Host: {url[7:]}\r\n" in asked[0]


def test_redirects_are_followed():
    for location in ("/cat", "{url}/cat"):
        for status in ("301 Moved Permanently", "302 Found", "303 See Other", "307 Temporary Redirect"):
            answers = {"/cat": response()}
            with serve(answers) as (url, _):
                answers["/"] = redirect(location.format(url=url), status)
                assert Fetcher(is_allowed=here)(url) == PNG


def test_a_chunked_answer_and_one_without_a_length_are_read():
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(PNG), PNG)
    with serve({"/a": chunked, "/b": b"HTTP/1.0 200 OK\r\n\r\n" + PNG}) as (url, _):
        assert Fetcher(is_allowed=here)(f"{url}/a") == Fetcher(is_allowed=here)(f"{url}/b") == PNG


NOT_PUBLIC = (
    "127.0.0.1 127.8.8.8 10.0.0.1 172.16.0.1 172.31.255.255 192.168.1.1 169.254.169.254 169.254.0.1 "
    "100.64.0.1 100.100.100.200 0.0.0.0 0.1.2.3 224.0.0.1 239.255.255.250 240.0.0.1 255.255.255.255 "
    "192.0.2.1 198.18.0.1 192.0.0.192 192.88.99.1 64:ff9b:1::1 203.0.113.1 168.63.129.16 :: ::1 fe80::1 fc00::1 fd00:ec2::254 "
    "fec0::1 ff02::1 2001:db8::1 ::ffff:127.0.0.1 ::ffff:169.254.169.254 ::ffff:10.0.0.1 ::127.0.0.1 "
    "64:ff9b::7f00:1 64:ff9b::a9fe:a9fe 2002:7f00:1:: 2002:c0a8:101:: 2001:0:7f00:1:: "
)


def test_addresses_that_are_not_public_are_known():
    assert [text for text in NOT_PUBLIC.split() if is_public(ipaddress.ip_address(text))] == []
    public = ("8.8.8.8", "1.1.1.1", "2606:4700:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808")
    assert all(is_public(ipaddress.ip_address(text)) for text in public)


def test_no_way_of_writing_an_address_leads_inside(subtests):
    hosts = (
        *("127.0.0.1", "localhost", "2130706433", "0x7f000001", "0x7f.1", "0177.0.0.1", "127.1", "0"),
        *("[::1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[::]", "127.0.0.1.", "LOCALHOST", "①②⑦.0.0.1"),
        *("169.254.169.254", "[fe80::1%25lo]", "[64:ff9b::7f00:1]", "10.0.0.1", "[fd00:ec2::254]"),
    )
    with serve({"/": response()}) as (url, asked):
        port = url.rpartition(":")[2]
        for host in hosts:
            with subtests.test(msg=host):
                why = refused(f"http://{host}:{port}/", is_allowed=is_public)
                assert "not an address of the public internet" in why or "there is no server called" in why
        assert not asked


def test_a_redirect_inside_is_refused():
    inside = ("http://localhost:{port}/", "http://[::1]:{port}/", "http://169.254.169.254/", "//10.0.0.1/")
    for location in inside:
        answers = {"/cat": response()}
        with serve(answers) as (url, asked):
            answers["/"] = redirect(location.format(port=url.rpartition(":")[2]))
            allowed_once = iter([True])
            why = refused(url, is_allowed=lambda address, once=allowed_once: next(once, is_public(address)))
        assert "not an address of the public internet" in why and len(asked) == 1


def test_the_address_that_was_checked_is_the_one_that_is_asked(monkeypatch):
    """A name that means another address the second time, as in DNS rebinding."""
    resolve, names = socket.getaddrinfo, []

    def rebind(host, port, *args, **options):
        names.append(host)
        return resolve("127.0.0.1" if len(names) == 1 else "127.0.0.2", port, *args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", rebind)
    with serve({"/": response()}) as (url, _):
        assert Fetcher(is_allowed=here)(url.replace("127.0.0.1", "cats.example")) == PNG
    assert names == ["cats.example"]


def test_one_inner_address_among_the_addresses_of_a_name_is_enough(monkeypatch):
    both = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, 80)) for host in ("8.8.8.8", "10.0.0.1")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **options: both)
    assert "cats.example is at 10.0.0.1" in refused("http://cats.example/", is_allowed=is_public)


def test_addresses_of_other_kinds_are_refused():
    with serve({"/": redirect("file:///etc/passwd"), "/ftp": redirect("ftp://8.8.8.8/")}) as (url, _):
        assert "file:///etc/passwd is no address that begins with http" in refused(url)
        assert "ftp://8.8.8.8/ is no address" in refused(f"{url}/ftp")
    assert "user name or password" in refused("http://me:secret@8.8.8.8/")
    assert "Invalid IPv6 URL" in refused("http://[::1/")
    assert "there is no server called no-such-host.invalid" in refused("http://no-such-host.invalid/")


def test_redirects_have_a_limit():
    with serve({"/": redirect("/")}) as (url, asked):
        assert "leads on more than 3 times" in refused(url)
    assert len(asked) == 4


def test_only_pictures_are_taken():
    with serve(
        {
            "/page": response(b"<html>", kind="text/html; charset=utf-8"),
            "/missing": response(b"", status="404 Not Found"),
            "/packed": response(gzip.compress(PNG), more="Content-Encoding: gzip\r\n"),
            "/bomb": response(gzip.compress(bytes(10_000_000)), more="Content-Encoding: gzip\r\n"),
            "/lie": response(b"<html>"),
            "/nothing": response(b""),
        }
    ) as (url, _):
        assert "it is text/html, expected a picture" in refused(f"{url}/page")
        assert "the server answered 404 Not Found" in refused(f"{url}/missing")
        assert "packed with gzip" in refused(f"{url}/packed")
        assert "packed with gzip" in refused(f"{url}/bomb")
        for path, message in {"/lie": "is a web page, which is not read", "/nothing": "is empty"}.items():
            with pytest.raises(PictureError, match=message):
                open_picture(url + path, fetch=Fetcher(is_allowed=here))


def test_size_has_a_limit_while_streaming_and_whatever_the_length_says():
    with serve(
        {
            "/": send_endlessly,
            "/chunks": send_chunks_endlessly,
            "/large": response(length=10**12),
            "/short": response(length=len(PNG) + 5),
        }
    ) as (url, _):
        assert "more bytes than the limit of 1,000,000" in refused(url, max_bytes=1_000_000)
        assert "more bytes than the limit of 1,000,000" in refused(f"{url}/chunks", max_bytes=1_000_000)
        assert "1,000,000,000,000 bytes, more than the limit of 50,000,000" in refused(f"{url}/large")
        assert f"it ended after {len(PNG):,} of {len(PNG) + 5:,} bytes" in refused(f"{url}/short")


def test_time_has_a_limit_for_the_whole_transfer():
    with serve({"/": drip, "/headers": drip_headers, "/silence": say_nothing}) as (url, _):
        for path in ("", "/headers", "/silence"):
            start = time.monotonic()
            assert "it took more than 0.4 s" in refused(url + path, max_seconds=0.4)
            assert time.monotonic() - start < 1.5


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    if shutil.which("openssl") is None:
        pytest.skip("there is no openssl to make a certificate with")
    folder = tmp_path_factory.mktemp("tls")
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=cats.example"
    command += " -addext subjectAltName=DNS:cats.example -keyout key.pem -out cert.pem"
    subprocess.run(command.split(), check=True, capture_output=True, cwd=folder)
    return folder


def test_a_certificate_must_be_trusted_and_fit_the_name(certificate, monkeypatch):
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")

    def trusting():
        return ssl.create_default_context(cafile=str(certificate / "cert.pem"))

    resolve = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, *a, **o: resolve("127.0.0.1", *a, **o))
    with serve({"/": response(), "/out": redirect("http://cats.example/")}, server) as (url, _):
        cats, dogs = (url.replace("127.0.0.1", name) for name in ("cats.example", "dogs.example"))
        assert Fetcher(is_allowed=here, tls=trusting)(f"{cats}/") == PNG
        assert "certificate is not valid (self-signed certificate)" in refused(f"{cats}/")
        assert "certificate is not valid (Hostname mismatch" in refused(f"{dogs}/", tls=trusting)
        assert "from https to an address without encryption" in refused(f"{cats}/out", tls=trusting)


def test_a_handshake_that_never_ends_is_cut_off():
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"https://127.0.0.1:{server.getsockname()[1]}/"
        start = time.monotonic()
        assert "it took more than 0.3 s" in refused(url, max_seconds=0.3)
        assert time.monotonic() - start < 1.5
