package a;

public class A {
    public long size() { return 0; }
    private void hidden() { }
}
