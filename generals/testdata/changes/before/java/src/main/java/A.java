package a;

public class A {
    public int size() { return 0; }
    public void add(String item) { }
    private void hidden() { }
}
