"""URLs with secrets are known, those without are left alone, and no message shows one."""

import pytest

from sharding import credentials, storage
from sharding.errors import StorageError

SECRET = "hunter2AKIAIOSFODNN7"
WITH = {
    "password": f"http://ann:{SECRET}@host/f.csv",
    "password with @": f"http://ann:x@{SECRET}@host/f.csv",
    "password with /": f"http://ann:x/{SECRET}@host/f.csv",
    "password with ?": f"http://ann:x?{SECRET}@host/f.csv",
    "password, encoded colon": f"https://ann%3A{SECRET}@host/f.csv",
    "password, encoded": f"https://ann:%68{SECRET}@host/f.csv",
    "token as user": f"https://{SECRET}@host/f.csv",
    "empty user": f"https://:{SECRET}@host/f.csv",
    "upper case": f"HTTPS://ann:{SECRET}@HOST/f.csv",
    "IPv6": f"http://ann:{SECRET}@[::1]:80/f.csv",
    "s3 key and secret": f"s3://AKIA:{SECRET}@bucket/f.parquet",
    "s3 key": f"s3://{SECRET}@bucket/f.parquet",
    "gs": f"gs://ann:{SECRET}@bucket/f.parquet",
    "abfs": f"abfs://container:{SECRET}@account.dfs.core.windows.net/f.parquet",
    "hdfs": f"hdfs://ann:{SECRET}@host:9000/f.parquet",
    "presigned S3": f"https://b.s3.amazonaws.com/f.csv?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Signature={SECRET}",
    "presigned S3, credential": f"https://b.s3.amazonaws.com/f.csv?X-Amz-Credential={SECRET}",
    "presigned S3, session": f"https://b.s3.amazonaws.com/f.csv?x-amz-security-token={SECRET}",
    "presigned S3, version 2": f"https://b.s3.amazonaws.com/f.csv?AWSAccessKeyId={SECRET}&Expires=1",
    "presigned GCS": f"https://storage.googleapis.com/b/f.csv?X-Goog-Signature={SECRET}",
    "presigned GCS, version 2": f"https://storage.googleapis.com/b/f.csv?GoogleAccessId={SECRET}",
    "SAS": f"https://a.blob.core.windows.net/c/f.csv?sv=2024-11-04&se=2026&sp=r&sig={SECRET}",
    "SAS of abfs": f"abfs://c@a.dfs.core.windows.net/f.csv?sig={SECRET}",
    "CloudFront": f"https://d.cloudfront.net/f.csv?Policy=x&Key-Pair-Id={SECRET}",
    "token": f"https://host/f.csv?token={SECRET}",
    "access_token": f"https://host/f.csv?a=1&access_token={SECRET}",
    "apikey": f"https://host/f.csv?apikey={SECRET}",
    "api-key, encoded name": f"https://host/f.csv?api%2Dkey={SECRET}",
    "camelCase": f"https://host/f.csv?clientSecret={SECRET}",
    "brackets": f"https://host/f.csv?auth[key]={SECRET}",
    "upper-case name": f"https://host/f.csv?PASSWORD={SECRET}",
    "fragment": f"https://host/f.csv#access_token={SECRET}",
    "semicolons": f"https://host/f.csv;jwt={SECRET}",
    "a long value of any name": f"https://host/f.csv?x={SECRET}{SECRET}",
    "a long value without a name": f"https://host/f.csv?{SECRET}{SECRET}",
    "Ray": f"ray://ann:{SECRET}@head:10001",
}
WITHOUT = [
    "s3://bucket/voters/*.parquet", "gs://bucket/a b.csv", "abfs://container@account.dfs.core.windows.net/x.parquet", "/data/a@b.csv",
    "hdfs://ann@host:9000/f.parquet", "https://host/f.csv?download=1&version=3", "s3://bucket/2024@home/x.parquet", "ray://head:10001",
    "memory://x", "data/key=1/secret=2/part.csv", "s3://bucket/key=abc/token=x/part.parquet", "head:6379", "http://[::1]:8265",
]  # fmt: skip


@pytest.mark.parametrize("kind", WITH)
def test_a_url_with_a_secret_is_known_and_never_shown(kind: str):
    url = WITH[kind]
    assert credentials.found_in(url)
    assert SECRET not in credentials.found_in(url)
    for text in (url, f"reading {url!r} failed", f'"{url}": no such file', f"a {url} b {url}", f"<{url}>"):
        assert SECRET not in credentials.hide(text), text
    with pytest.raises(StorageError) as refused:
        storage.resolve(url)
    assert SECRET not in str(refused.value)


@pytest.mark.parametrize("url", WITHOUT)
def test_a_url_without_a_secret_is_left_alone(url: str):
    assert credentials.found_in(url) == ""
    assert credentials.hide(f"found {url}, expected {url!r}") == f"found {url}, expected {url!r}"


def test_what_is_hidden_still_says_which_file():
    assert credentials.hide(WITH["SAS"]) == "https://a.blob.core.windows.net/c/f.csv?(hidden)"
    assert credentials.hide(WITH["s3 key and secret"]) == "s3://(hidden)@bucket/f.parquet"
    assert credentials.hide(f"proxy ann:{SECRET}@proxy:3128 refused") == "proxy (hidden)@proxy:3128 refused"


def test_a_login_is_hidden_with_all_that_may_be_its_user():
    for text, shown in (("(a:b@c", "(hidden)@c"), ("a::b@c", "(hidden)@c"), ("/a:b@c", "/a:b@c"), ("/-a:b@c", "/-(hidden)@c"), ("a:@c", "a:@c"),
                        (":a@c", ":a@c"), ("x@a:b@c", "x@(hidden)@c"), ("1http://k:p@h", "1http://(hidden)@h"), ("a:b@ c", "a:b@ c")):  # fmt: skip
        assert credentials.hide(text) == shown, text


@pytest.mark.parametrize("piece", ["(", "a", "a1", ":(", "a:", "@a", "/a", "a.", "::", "-", "a@(", ":a@", "?a=b&"])
def test_a_long_text_takes_no_square_of_its_length(piece: str):
    text = piece * (1_000_000 // len(piece))  # the square would take hours
    assert credentials.hide(text) == text
